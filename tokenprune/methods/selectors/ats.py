"""Defines ATS (Fayyaz et al., ECCV 2022, section 3): inverse-transform sampling of tokens by class attention times value norm."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("official", "token_reduction")
_LEAST = 1e-6  # what TokenReduction's code adds to the sum of scores


@register("selector", "ats")
class AdaptiveTokenSampler(Selector):
    """Samples at most `budget.keep` tokens; the number of distinct ones differs between images. Only kept queries are computed.

    Args:
        context: see `Context`.
        variant: `official`: the CDF runs over ascending scores and is min-max normalised, so the token of least score is never sampled.
            `token_reduction`, TokenReduction's own code: the CDF runs over the grid in raster order, a score is the sum over heads of
            attention times the value's norm in that head, and the samples lie in an open range.

    Raises:
        InvalidConfig: The variant is unknown.
    """

    site = Site.ROWS
    budget = "dynamic"
    count_role = "cap"
    reads_cls = True
    module = "attention-based"
    paper = "ATS, ECCV 2022"
    published = {"treatment": "remove", "schedule": {"name": "free", "start": 3}}

    def __init__(self, context: Context, variant: str = "official") -> None:
        super().__init__(context)
        self.in_raster_order = one_of(self.name, "variant", variant, VARIANTS) == "token_reduction"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Score by attention x ||v|| (Eq. 3), normalise, and sample."""
        if self.in_raster_order:
            score = (seen.cls_row() * seen.head_value_norms()).sum(1).masked_fill(~seen.live, 0.0)
            score = score / (score.sum(1, keepdim=True) + _LEAST)
            keep = raster_transform(score.detach(), seen.live, budget.keep)
        else:
            score = (seen.cls_row().sum(1) * seen.value_norms()).masked_fill(~seen.live, 0.0)
            score = score / score.sum(1, keepdim=True).clamp(min=1e-12)
            keep = inverse_transform(score.detach(), seen.live, budget.keep)
        return Decision(at_least_one(keep, score, seen.live), score=score)


def inverse_transform(score: Tensor, live: Tensor, samples: int) -> Tensor:
    """Return the slots hit by `samples` equidistant points on the CDF of score (B,M), as keep (B,M).

    Bisection costs O(K log M). Each point takes the nearest CDF entry, and the lower one in a tie. The released distance matrix costs O(K
    M) memory. It is a matmul, so it misplaces points once the step 1/M is below its rounding error.
    """
    ordered, slots = sort_stably(score.masked_fill(~live, -1.0))
    last, dead = score.shape[1] - 1, (ordered < 0).sum(1, keepdim=True)
    outside = torch.arange(score.shape[1], device=score.device) < dead
    cdf = ordered.double().clamp_(min=0.0).cumsum(1)
    low = cdf.gather(1, dead.clamp(max=last))
    cdf = ((cdf - low) / (cdf[:, -1:] - low).clamp(min=1e-300)).masked_fill_(outside, -1.0)
    positive = cdf.gather(1, (cdf <= 0).sum(1, keepdim=True).clamp(max=last)).clamp(max=1.0)
    grid = torch.linspace(0, 1, max(samples, 2), device=score.device, dtype=cdf.dtype)[-samples:]
    return _hit(cdf, slots, positive + (1 - positive) * grid, live)


def raster_transform(score: Tensor, live: Tensor, samples: int) -> Tensor:
    """Return the slots hit by points on the CDF of score (B,M) in the order of slots, as keep (B,M).

    The points are 1/2K, 3/2K, ... below 1 - 1/2K for K = samples + 1; rounding may add one.
    """
    dead_first, slots = sort_stably(live.to(torch.uint8))
    cdf = score.double().cumsum(1).gather(1, slots).masked_fill(dead_first == 0, -1.0)
    whole = 2 * (samples + 1)
    points = torch.arange(1 / whole, (whole - 1) / whole, 2 / whole, device=score.device, dtype=cdf.dtype)
    return _hit(cdf, slots, points.expand(cdf.shape[0], -1), live)


def _hit(cdf: Tensor, slots: Tensor, points: Tensor, live: Tensor) -> Tensor:
    """Return the slots (B,M) whose entries of an ascending CDF (B,M) are nearest to points (B,K), the lower ones in ties, as keep (B,M)."""
    last = cdf.shape[1] - 1
    right = torch.searchsorted(cdf, points.contiguous()).clamp_(max=last)
    left = (right - 1).clamp_(min=0)
    nearest = left.where(points - cdf.gather(1, left) <= cdf.gather(1, right) - points, right)
    return torch.zeros_like(live).scatter_(1, slots.gather(1, nearest), 1) & live
