"""One fresh transformer block over everything (Cropr section 4.4, `MHSA + Concat`)."""

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import nn

from tokenprune.engine.blocks.base import BlockMacs
from tokenprune.engine.blocks.timm_vit import TimmBlock
from tokenprune.engine.fusion import Fusion
from tokenprune.engine.state import TokenState
from tokenprune.methods.layers import EPS, start


class SelfAttention(Fusion):
    """An ordinary pre-norm ViT block over prefix and all positions, retired ones by their latest value, then a projection of all.

    Args:
        dim: C. heads: h. proj: the linear layer C -> C behind the block, as Table 5's sizes imply.
    """

    def __init__(self, dim: int, heads: int, proj: bool = True) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=EPS)  # timm asks for a class and takes any maker of modules
        self.block = Block(dim, heads, qkv_bias=True, norm_layer=norm)
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()
        self.apply(start)

    def forward(self, state: TokenState) -> TokenState:
        """Return a state of all N positions, prefix tokens changed, too."""
        whole = state.expand()
        return whole.with_sequence(self.proj(self.block(whole.sequence())))

    def macs(self, live: float, positions: int, prefix: int) -> BlockMacs:
        """Return the MACs of the block and the projection over N+P tokens."""
        tokens = float(positions + prefix)
        block = TimmBlock(self.block).macs(tokens, tokens, tokens, tokens**2)
        proj = self.proj.weight.numel() if isinstance(self.proj, nn.Linear) else 0
        return BlockMacs(block.linear + tokens * proj, block.attention, block.norm)
