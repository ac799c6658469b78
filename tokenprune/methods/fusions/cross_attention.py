"""Fills all positions by learned queries, one a position, that cross-attend to the encoder's output (Cropr section 4.4, `Cross-Attn`)."""

import math

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from tokenprune.engine.blocks.base import BlockMacs
from tokenprune.engine.fusion import Fusion
from tokenprune.engine.state import TokenState
from tokenprune.methods.layers import EPS, start
from tokenprune.registry import register


@register("fusion", "cross_attention")
class CrossAttention(Fusion):
    """Applies one pre-norm cross-attention block with an MLP of 4 C: x = Q + A(LN(Q), LN(tokens)), x + MLP(LN(x)), then a projection.

    The keys are the prefix and the live tokens. With `everything` they are the prefix and every position, by its latest value. Prefix
    tokens pass unchanged. The queries lie on a grid that is about square; images of another grid get interpolated queries.

    Args:
        dim: Channels C.
        heads: Number of attention heads h.
        positions: Number of positions N of the images to come.
        everything: Whether retired tokens are keys, too.
        proj: Whether a linear layer C -> C follows the block, as the sizes in Table 5 imply (for example a decoder's input projection).
    """

    def __init__(self, dim: int, heads: int, positions: int, everything: bool, proj: bool = True) -> None:
        super().__init__()
        self.heads, self.everything = heads, everything
        height = next(h for h in range(math.isqrt(positions), 0, -1) if positions % h == 0)
        self.grid = (height, positions // height)
        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, positions, dim), std=0.02))
        self.query_norm, self.key_norm, self.mlp_norm = (nn.LayerNorm(dim, eps=EPS) for _ in range(3))
        self.ask, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.mlp = Mlp(dim, 4 * dim)
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()
        self.apply(start)

    def forward(self, state: TokenState) -> TokenState:
        """Return a state of all N positions, each with the output of its query."""
        whole = state.expand()
        seen = whole if self.everything else state
        there = None if seen.known.complete else F.pad(seen.live, (state.prefix_count, 0), value=1)
        x = self.asked(state.grid)
        x = x + self._attend(x, seen.sequence(), there)
        return whole.replace(tokens=self.proj(x + self.mlp(self.mlp_norm(x))))

    def asked(self, grid: tuple[int, int]) -> Tensor:
        """Return the queries (1,N,C) for images of the grid (H,W)."""
        if grid == self.grid:
            return self.queries
        map_ = self.queries.transpose(1, 2).unflatten(2, self.grid)
        return F.interpolate(map_, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)

    def macs(self, live: float, positions: int, prefix: int) -> BlockMacs:
        """Return the MACs of one image. Each image counts the queries' projection, which the images of a batch share."""
        dim, keys = self.queries.shape[2], prefix + (positions if self.everything else live)
        layers = [m for part in (self.ask, self.out, self.mlp, self.proj) for m in part.modules() if isinstance(m, nn.Linear)]
        long = sum(layer.weight.numel() for layer in layers)
        linear = positions * long + keys * (self.key.weight.numel() + self.value.weight.numel())
        return BlockMacs(float(linear), 2.0 * positions * keys * dim, 5.0 * dim * (2 * positions + keys))

    def _attend(self, x: Tensor, tokens: Tensor, there: Tensor | None) -> Tensor:
        """Return the attention output of the queries.

        Args:
            x: Queries, (1,N,C).
            tokens: Tokens, (B,T,C).
            there: Which tokens are visible, (B,T); None for all.
        """
        keys = self.key_norm(tokens)
        parts = (self.ask(self.query_norm(x)).expand(len(tokens), -1, -1), self.key(keys), self.value(keys))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mask = None if there is None else there[:, None, None, :]
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
