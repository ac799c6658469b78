"""Splits tokens by rank into two alternating sets and merges along the best edges, as ToMe does; the methods that build on it share this.

A holds ranks 0, 2, 4, ... of all T tokens and B the others; the class token is the first of A and never merges. M slots, R merges.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably, take


def half(live: int, prefix: int) -> int:
    """Return how many of `live` slots one matching can merge: at most one side of the split."""
    return live // 2


class Split(NamedTuple):
    """Holds the two sets of a split.

    Attributes:
        a: (B,Ma) slots of set A, without the class token, by rank.
        b: (B,Mb) slots of set B, by rank.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, ranked: Tensor, prefix: int) -> "Split":
        """Return the split of slots (B,K) in the order of their rank, behind `prefix` tokens that have the first ranks."""
        return cls(ranked[:, prefix % 2 :: 2], ranked[:, 1 - prefix % 2 :: 2])


def cosines(metric: Tensor, split: Split) -> Tensor:
    """Return the cosine (B,Ma,Mb) of each pair of A and B by a metric (B,M,d)."""
    unit = F.normalize(metric.detach(), dim=-1)
    return take(unit, split.a) @ take(unit, split.b).transpose(1, 2)


def edges_of(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a similarity (B,Ma,Mb) by the falling value of their best column, and that column of each row, both (B,Ma)."""
    best, partner = similarity.max(-1)
    return sort_stably(best, descending=True)[1], partner


def matched(split: Split, similarity: Tensor, merged: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the `merged` best edges of a similarity (B,Ma,Mb) mean: sources, their targets (both (B,merged)), and the order after.

    Each token of A has one edge, to its most similar token of B, the first in a tie. The order is that of the released codes: what is left
    of A by rank, then B by rank, (B,K).
    """
    edges, partner = edges_of(similarity)
    source = split.a.gather(1, edges[:, :merged])
    target = split.b.gather(1, partner.gather(1, edges[:, :merged]))
    order = torch.cat([split.a.gather(1, edges[:, merged:].sort(1).values), split.b], 1)
    return source, target, order


def merging(live: Tensor | None, source: Tensor, target: Tensor, order: Tensor, score: Tensor | None = None) -> Decision:
    """Return the decision that merges slots `source` (B,R) into `target` (B,R) and leaves an order (B,K) of live slots.

    `live` (B,M) is None where all are known to be, see `Observation.mask`.
    """
    if live is None:
        return Decision.between(order, source, into=target, score=score, order=order)
    return Decision(live.scatter(1, source, 0), score=score, slots=order, gone=source, order=order, into=target)
