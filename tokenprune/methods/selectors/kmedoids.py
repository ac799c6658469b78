"""Defines K-Medoids (Token Pooling, Marin et al., WACV 2023, a baseline of TokenReduction and Cropr): the centres of clusters stay."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, at, best_slots
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.distances import distances, nearest, within
from tokenprune.methods.selectors.shared.stored_attention import AttentionBefore, known
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")


@register("selector", "kmedoids")
class KMedoids(AttentionBefore):
    """Clusters the tokens, each weighted by the attention that it received in the block before, and keeps the medoids unchanged.

    The first medoids are the tokens of most weight. A fused token has no stored weight and weighs nothing.

    Args:
        context: see `Context`.
        score: The weight: `column_mean` over all queries (published), `mean_query`, or `cls` for the class token's row.
        iterations: Number of rounds of assignment and update; 0 keeps the tokens of most weight.
        variant: `fixed` or `released`, see `cluster`.

    Raises:
        InvalidConfig: The score or variant is unknown, or the number of iterations is negative.
        InvalidSchedule: The decision is at block 0.
    """

    reads_previous_block = False  # most of its cost is the distances, which are those of all candidates
    module = "clustering"
    paper = "Token Pooling, WACV 2023"

    def __init__(self, context: Context, score: str = "column_mean", iterations: int = 3, variant: str = "fixed") -> None:
        super().__init__(context, known(self.name, score))
        if not isinstance(iterations, int) or iterations < 0:
            raise InvalidConfig(f"{self.name}: iterations is {iterations!r}; allowed: a whole number >= 0")
        self.iterations, self.variant = iterations, one_of(self.name, "variant", variant, VARIANTS)

    @classmethod
    def wants_cls(cls, options: Mapping[str, Any]) -> bool:
        """Tell whether `score` is the class token's row."""
        return options.get("score") == "cls"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` medoids."""
        weights = self.received(seen, missing=0.0)
        slots = cluster(seen.tokens, weights, budget.keep, self.iterations, self.variant, seen.live)
        return Decision(at(slots, seen.live), score=weights, slots=slots)

    def macs(self, slots: float) -> float:
        """Return M^2 C of the distances, M^2 an iteration of the costs, and the MACs of the column mean."""
        return super().macs(slots) + slots * slots * (self.context.dim + self.iterations)


def cluster(tokens: Tensor, weights: Tensor, count: int, iterations: int = 3, variant: str = "fixed", live: Tensor | None = None) -> Tensor:
    """Return the slots of `count` medoids an image, (B,count), ascending and distinct.

    `fixed`: the cost of a candidate is sum_j w_j d(i,j) over the members j of its cluster. A medoid always belongs to its own cluster, so
    no cluster is ever empty, and the objective, the sum of all w_j d(j, its medoid), never rises.

    `released`: the cost is w_i sum_j d(i,j) over all tokens j, as in TokenReduction's code, so members do not matter and attended tokens
    lose. An empty cluster takes the first token. If a token is a medoid twice, the tokens of most weight fill up.

    Args:
        tokens: Tokens, (B,M,C).
        weights: Weights, (B,M), not negative.
        count: Number of medoids, at most the live slots of each image.
        iterations: see `KMedoids`.
        variant: see `KMedoids`.
        live: Live slots, (B,M) bool; None for all.
    """
    live = torch.ones_like(weights, dtype=torch.bool) if live is None else live
    apart = distances(tokens, live)
    weights = weights.detach().to(apart.dtype).masked_fill(~live, 0.0)
    overall = weights * apart.masked_fill(~live.unsqueeze(1), 0.0).sum(-1) if variant == "released" else None
    number = torch.arange(count, device=live.device)
    medoids = sort_stably(weights.masked_fill(~live, -1.0), descending=True)[1][:, :count]
    for _ in range(iterations):
        owner = nearest(apart, medoids)
        if overall is None:
            owner = owner.scatter(1, medoids, number.expand_as(medoids))
        medoids = cheapest(within(apart, owner, weights) if overall is None else overall, owner, live, count)
    named = torch.zeros_like(live).scatter_(1, medoids, 1)
    return best_slots(weights.masked_fill(named, float("inf")), live, count)


def cheapest(cost: Tensor, owner: Tensor, live: Tensor, count: int) -> Tensor:
    """Return the live slot of least cost of each cluster, (B,count), the first in a tie; the first live slot for a cluster without any.

    Args:
        cost: Cost of each slot, (B,M).
        owner: Number of each slot's cluster, (B,M).
        live: Live slots, (B,M).
        count: Number of clusters.
    """
    (B, M), cost = cost.shape, cost.masked_fill(~live, float("inf"))
    least = cost.new_full((B, count), float("inf")).scatter_reduce(1, owner, cost, "amin")
    place = torch.arange(M, device=live.device).expand(B, M)
    slots = place.where(live & (cost == least.gather(1, owner)), M)
    first = slots.new_full((B, count), M).scatter_reduce(1, owner, slots, "amin")
    return first.where(first < M, live.int().argmax(1, keepdim=True))
