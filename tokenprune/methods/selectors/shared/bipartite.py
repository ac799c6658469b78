"""Splits tokens by rank into two alternating sets and merges along the best edges, as ToMe does; the methods that build on it share this.

A holds ranks 0, 2, 4, ... of all T tokens and B the others; the class token is the first of A and never merges. M slots, R merges.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably, take
from tokenprune.engine.observation import Observation
from tokenprune.methods.selectors.shared.distances import directions


def half(live: int, prefix: int) -> int:
    """Return how many of `live` slots one matching can merge: at most one side of the split."""
    return live // 2


class Split(NamedTuple):
    """Holds the two sets of a split.

    Attributes:
        a: (B,Ma) slots of set A, without the class token, by rank.
        b: (B,Mb) slots of set B, by rank.
        first: The first slot of A, where A is every other slot from there on and B all others; None where they lie in another order.
    """

    a: Tensor
    b: Tensor
    first: int | None

    @classmethod
    def of(cls, seen: Observation, count: int) -> "Split":
        """Return the split of the `count` live slots by their rank, behind the prefix tokens, which have the first ranks."""
        state, first = seen.state, seen.state.prefix_count % 2
        B, M = state.index.shape
        if seen.complete and state.order is None and count == M:
            a, b = (torch.arange(start, M, 2, device=state.index.device).expand(B, -1) for start in (first, 1 - first))
            return cls(a, b, first)
        ranked = seen.ranked(count)
        return cls(ranked[:, first::2], ranked[:, 1 - first :: 2], None)

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of A and of B of x (B,M,C)."""
        return (take(x, self.a), take(x, self.b)) if self.first is None else (x[:, self.first :: 2], x[:, 1 - self.first :: 2])


def cosines(metric: Tensor, split: Split) -> Tensor:
    """Return the cosine (B,Ma,Mb) of each pair of A and B by a metric (B,M,d)."""
    a, b = split.rows(directions(metric))
    return torch.bmm(a, b.transpose(1, 2))


def edges_of(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a similarity (B,Ma,Mb) by the falling value of their best column, and that column of each row, both (B,Ma)."""
    best, partner = similarity.max(-1)
    return sort_stably(best, descending=True)[1], partner


def matched(split: Split, similarity: Tensor, merged: int, by_rank: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the `merged` best edges of a similarity (B,Ma,Mb) mean: sources, their targets (both (B,merged)), and the order after.

    Each token of A has one edge, to its most similar token of B, the first in a tie. The order is that of the released codes: what is left
    of A by rank, or else by falling similarity, then B by rank, (B,K).
    """
    edges, partner = edges_of(similarity)
    joins, stays = edges[:, :merged], edges[:, merged:]
    source, target = split.a.gather(1, joins), split.b.gather(1, partner.gather(1, joins))
    stays = stays.sort(1).values if by_rank else stays
    return source, target, torch.cat([split.a.gather(1, stays), split.b], 1)


def merging(live: Tensor | None, source: Tensor, target: Tensor, order: Tensor, score: Tensor | None = None) -> Decision:
    """Return the decision that merges slots `source` (B,R) into `target` (B,R) and leaves an order (B,K) of live slots.

    `live` (B,M) is None where all are known to be, see `Observation.mask`.
    """
    return Decision.between(order, source, live, into=target, score=score, order=order)
