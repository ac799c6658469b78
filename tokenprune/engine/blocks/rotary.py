"""Rotary position codes of slots: rows of the grid's table, picked by where each slot came from.

A slot keeps the position it started with: a merged token turns as its own place (ToMe has no word on rotary models), a token brought
back turns as ever. What has no place, prefix tokens and fused ones, is not turned at all, as timm does with prefix tokens.
"""

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor

from tokenprune.engine.state import TokenState


def rotary_rows(state: TokenState, block: int, picked: Tensor | None = None) -> Tensor | None:
    """Return the rotary rows of the sequence at a block, broadcastable to (B,h,P+M,2d): sines first, then cosines; None without codes.

    Args:
        state: its `rope` is a table (N,2d), or one for each block and head, (depth,h,N,2d) or a sequence of (1 or h,N,2d).
        block: 0-based number.
        picked: (T,) rows of the flattened sequence (B*(P+M)) that are computed, packed in one row; the result is (1,1 or h,T,2d).
    """
    if state.rope is None:
        return None
    table = state.rope if isinstance(state.rope, Tensor) and state.rope.dim() == 2 else state.rope[block]
    table = table.reshape(-1, *table.shape[-2:])  # (1 or h,N,2d)
    zeros = torch.zeros_like(table[:, :1, ::2])
    still = torch.cat([zeros, zeros + 1], -1)  # no rotation: sine 0, cosine 1
    P, N = state.prefix_count, table.shape[1]
    if state.known.in_grid_order and picked is None:
        return torch.cat([still.expand(-1, P, -1), table], 1).unsqueeze(0)
    placed = torch.nn.functional.pad(state.index, (P, 0), value=-1)
    places = placed if picked is None else placed.flatten().index_select(0, picked).unsqueeze(0)
    rows = torch.cat([table, still], 1).index_select(1, places.where(places >= 0, N).flatten())
    return rows.unflatten(1, places.shape).transpose(0, 1)


def rotated(x: Tensor, rope: Tensor, half: bool) -> Tensor:
    """Return x (B,h,T,d) turned by rows of sines and cosines (...,T,2d); `half` pairs channels d/2 apart, not neighbours."""
    return apply_rot_embed_cat(x, rope, half=True) if half else apply_rot_embed_cat(x, rope)
