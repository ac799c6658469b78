"""Defines K-Medoids (Token Pooling, Marin et al., WACV 2023, a baseline of TokenReduction and Cropr): the centres of clusters stay."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, at, best_slots
from tokenprune.engine.state import Decision
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.distances import distances
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
    pull = apart * weights.unsqueeze(1)  # [i,j]: the part of the cost of candidate i that member j adds
    overall = weights * apart.masked_fill(~live.unsqueeze(1), 0.0).sum(-1)
    number = torch.arange(count, device=live.device)
    dead, worst = ~live.unsqueeze(-1), torch.finfo(apart.dtype).max
    medoids = sort_stably(weights.masked_fill(~live, -1.0), descending=True)[1][:, :count]
    for _ in range(iterations):
        owner = apart.gather(2, medoids.unsqueeze(1).expand(-1, apart.shape[1], -1)).argmin(-1)
        if variant == "fixed":
            owner = owner.scatter(1, medoids, number.expand_as(medoids))
        together = owner.unsqueeze(2) == owner.unsqueeze(1)
        cost = overall if variant == "released" else (pull * together).sum(-1)
        candidates = cost.unsqueeze(-1).where(owner.unsqueeze(-1) == number, worst)  # (B,M,count)
        medoids = candidates.masked_fill(dead, float("inf")).argmin(1)
    named = torch.zeros_like(live).scatter_(1, medoids, 1)
    return best_slots(weights.masked_fill(named, float("inf")), live, count)
