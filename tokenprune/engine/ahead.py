"""A block whose attention map is grouped as its tokens are merged, before it has values ("one step ahead", MCTF, CVPR 2024, section 3.3).

T tokens ask, T' <= T are left. Tokens x become x', the map A (T,T) becomes A' (T',T'): columns of a group add, rows of a group are averaged
with the weights of its tokens. Values are those of x', and neither queries nor keys are made again.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.engine.indexing import behind
from tokenprune.engine.merged import Groups
from tokenprune.engine.policy import DeadSlotRule, Decide, settle, visibility, write
from tokenprune.engine.state import TokenState


def run_ahead(adapter: BaseBlock, state: TokenState, policy: DeadSlotRule, decide: Decide, see: Decide | None) -> TokenState:
    """Run one block over every slot, dead keys hidden, with its decision between attention map and values."""
    bias, _ = visibility(state, policy)
    p = adapter.asks(state.sequence(), adapter.codes(state))
    logits = (p.q * p.scale) @ p.k.transpose(-2, -1)
    logits = logits if bias is None else logits + bias[:, None, None, :]
    map_ = logits.softmax(-1)
    p = replace(p, map=map_)
    state = decide(state if see is None else see(state, p, bias), p, bias)
    slots = None if policy.mode == "masked" else state.known.slots
    after = settle(state, policy if slots is not None else replace(policy, mode="masked"))  # uneven counts: dead slots stay for this block
    x = after.sequence()
    x = x + adapter.answer(x, left_of(map_, state, slots), p.call)
    return write(after, x + adapter.feed(x), policy)


def left_of(map_: Tensor, state: TokenState, slots: Tensor | None) -> Tensor:
    """Return the attention of what a decision has left, of the map (B,h,T,T) of all.

    Args:
        map_: attention of the block.
        state: after the decision, dropped slots marked as dead.
        slots: (B,K) the slots that are left, for a map (B,h,P+K,P+K); None hides the dead ones.
    """
    groups, P = state.groups, state.prefix_count
    map_ = map_ if groups is None else grouped(map_, groups, P)
    if slots is None:
        map_ = map_ * F.pad(state.live, (P, 0), value=1)[:, None, None, :]
    else:
        kept = behind(slots, P)
        map_ = map_.gather(2, as_rows(kept, map_))
        map_ = map_.gather(3, as_columns(kept, map_))
    return map_ if groups is not None and groups.exact else map_ / map_.sum(-1, keepdim=True)


def grouped(map_: Tensor, groups: Groups, prefix: int) -> Tensor:
    """Return the map (B,h,T,T) with merged slots, behind `prefix` tokens, in their targets; their own rows and columns mean nothing."""
    gone, into = groups.gone + prefix, groups.into + prefix
    moved = map_.gather(3, as_columns(gone, map_)) * (groups.amount != 0)[:, None, None, :]
    map_ = map_.scatter_add(3, as_columns(into, map_), moved)
    share = (groups.amount / groups.total.gather(1, groups.into)).to(map_.dtype)
    from_rows, to_rows = as_rows(gone, map_), as_rows(into, map_)
    return map_.scatter_add(2, to_rows, (map_.gather(2, from_rows) - map_.gather(2, to_rows)) * share[:, None, :, None])


def as_rows(places: Tensor, map_: Tensor) -> Tensor:
    """Return places (B,R) as indices (B,h,R,T) of rows of a map (B,h,T,T)."""
    return places[:, None, :, None].expand(-1, map_.shape[1], -1, map_.shape[3])


def as_columns(places: Tensor, map_: Tensor) -> Tensor:
    """Return places (B,R) as indices (B,h,T,R) of columns of a map (B,h,T,T)."""
    return places[:, None, None, :].expand(-1, map_.shape[1], map_.shape[2], -1)
