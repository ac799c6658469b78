"""Defines ATS (Fayyaz et al., ECCV 2022, section 3): inverse-transform sampling of tokens by class attention times value norm."""

import torch
from torch import Tensor

from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector
from tokenprune.engine.state import Decision
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.registry import register


@register("selector", "ats")
class AdaptiveTokenSampler(Selector):
    """Samples at most `budget.keep` tokens; the number of distinct ones differs between images. Only kept queries are computed.

    As in the official code the CDF runs over ascending scores and is min-max normalised, so the token of least score is never sampled.
    TokenReduction differs: its CDF is in spatial order, its norms are those of each head, and its points form an open range, so that a
    budget of K most often gives K-1.
    """

    site = Site.ROWS
    budget = "dynamic"
    count_role = "cap"
    reads_cls = True
    module = "attention-based"
    paper = "ATS, ECCV 2022"
    published = {"treatment": "remove", "schedule": {"name": "free", "start": 3}}

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Score by attention x ||v|| (Eq. 3), normalise, and sample."""
        score = seen.cls_row().sum(1) * seen.value_norms()
        score = score.masked_fill(~seen.live, 0.0)
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
    points = positive + (1 - positive) * grid
    right = torch.searchsorted(cdf, points).clamp_(max=last)
    left = (right - 1).clamp_(min=0)
    nearest = left.where(points - cdf.gather(1, left) <= cdf.gather(1, right) - points, right)
    return torch.zeros_like(live).scatter_(1, slots.gather(1, nearest), 1) & live
