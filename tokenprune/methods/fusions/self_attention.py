"""Fills all positions by one new transformer block over every token (Cropr section 4.4, `MHSA + Concat`)."""

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import nn

from tokenprune.engine.blocks.base import BlockMacs
from tokenprune.engine.blocks.timm_vit import TimmBlock
from tokenprune.engine.fusion import Fusion
from tokenprune.engine.state import TokenState
from tokenprune.methods.layers import EPS, start
from tokenprune.registry import register


@register("fusion", "self_attention")
class SelfAttention(Fusion):
    """Applies an ordinary pre-norm ViT block to the prefix and all positions, then a projection.

    Retired tokens enter with their last value.

    Args:
        dim: Channels C.
        heads: Number of attention heads h.
        proj: Whether a linear layer C -> C follows the block, as the sizes in Table 5 imply.
    """

    def __init__(self, dim: int, heads: int, proj: bool = True) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=EPS)  # timm asks for a class and takes any maker of modules
        self.block = Block(dim, heads, qkv_bias=True, norm_layer=norm)
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()
        self.apply(start)

    def forward(self, state: TokenState) -> TokenState:
        """Return a state of all N positions. The prefix tokens change, too."""
        whole = state.expand()
        return whole.with_sequence(self.proj(self.block(whole.sequence())))

    def macs(self, live: float, positions: int, prefix: int) -> BlockMacs:
        """Return the MACs of the block and the projection over N+P tokens."""
        tokens = float(positions + prefix)
        block = TimmBlock(self.block).macs(tokens, tokens, tokens, tokens**2)
        proj = self.proj.weight.numel() if isinstance(self.proj, nn.Linear) else 0
        return BlockMacs(block.linear + tokens * proj, block.attention, block.norm)
