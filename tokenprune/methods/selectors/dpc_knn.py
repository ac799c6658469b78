"""Defines DPC-KNN (TCFormer, Zeng et al., CVPR 2022, section 3.2): cluster centres are dense tokens far from any denser token."""

import torch
from torch import Tensor, nn

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, at, best_slots
from tokenprune.methods.selectors.shared.density_peaks import peaks
from tokenprune.methods.selectors.shared.distances import distances, nearest
from tokenprune.methods.selectors.shared.noise import uniform
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

NOISE = 1e-6
_LEAST = 1e-6  # what the released code adds to the sum of a cluster's weights
WEIGHTINGS, VARIANTS = ("learned", "equal"), ("fixed", "released")


@register("selector", "dpc_knn")
class DensityPeaks(Selector):
    """Merges every token into its nearest centre, which becomes the weighted mean of its cluster; it has no proportional attention.

    Only the weights of the mean are learned; the choice of centres is not. All weights are equal before training, so both weightings agree
    then. The convolutions and residual blocks of TCFormer are left out, as in TokenReduction's code.

    Args:
        context: see `Context`.
        weighting: `learned` weighs a token by exp(w x + b), where w and b start at zero. `equal` takes the mean of the tokens, merged or
            not.
        variant: `fixed` or `released`. The released code adds noise U(0,1) * 1e-6 to the density, also at test time, to tell equal ones
            apart; `fixed` goes by the order of slots. It also adds 1e-6 to the sum of weights that a mean is divided by, so that a cluster
            of small weights shrinks.
        noise: Whether `released` adds the noise. An image always gets the same noise here (`image_noise`); the released code draws it anew.

    Raises:
        InvalidConfig: The weighting or variant is unknown.
    """

    merging = True
    module = "clustering"
    paper = "TCFormer, CVPR 2022"
    published = {"treatment": {"name": "merge", "proportional": False}, "schedule": {"name": "stages"}}

    def __init__(self, context: Context, weighting: str = "learned", variant: str = "fixed", noise: bool = True) -> None:
        super().__init__(context)
        self.released = one_of(self.name, "variant", variant, VARIANTS) == "released"
        self.noisy = self.released and noise
        self.weigh = nn.Linear(context.dim, 1) if one_of(self.name, "weighting", weighting, WEIGHTINGS) == "learned" else None
        if self.weigh is not None:
            nn.init.zeros_(self.weigh.weight)
            nn.init.zeros_(self.weigh.bias)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep `budget.keep` centres, and name the nearest one as the target of each other token."""
        noise = NOISE * uniform(seen, None if self.training else 0) if self.noisy else None
        apart = distances(seen.tokens, seen.live).div_(self.context.dim**0.5)
        score = peaks(apart, seen.mask, noise)
        slots = best_slots(score, seen.mask, budget.keep)
        target = nearest_centre(apart, slots)
        logits = torch.zeros_like(score) if self.weigh is None else self.weigh(seen.tokens).squeeze(-1).float()
        logits = logits.masked_fill(~seen.live, 0.0)
        greatest = torch.full_like(logits, float("-inf")).scatter_reduce(1, target, logits.detach(), "amax").gather(1, target)
        weight = (logits - greatest).exp()  # less the greatest of its cluster: the means stay the same and nothing overflows
        values = self._shrunk(seen, target, weight, greatest) if self.released else None
        return Decision(at(slots, seen.live), target=target, score=score, weight=weight, slots=slots, values=values)

    @staticmethod
    def _shrunk(seen: Observation, target: Tensor, weight: Tensor, greatest: Tensor) -> Tensor:
        """Return the tokens (B,M,C) times W / (W + 1e-6), where W is the sum of weights of each one's cluster."""
        total = torch.zeros_like(weight).scatter_add(1, target, weight * seen.live).gather(1, target)
        share = total / (total + _LEAST * (-greatest).exp())
        return seen.tokens * share.where(seen.live, 1.0).unsqueeze(-1).to(seen.tokens.dtype)

    def macs(self, slots: float) -> float:
        """Return M^2 C of the distances, plus M C of learned weights."""
        return slots * (slots + (self.weigh is not None)) * self.context.dim


def nearest_centre(apart: Tensor, centres: Tensor) -> Tensor:
    """Return the slot of each token's nearest centre, (B,M). The nearest centre of a centre is itself.

    Args:
        apart: Distances, (B,M,M).
        centres: Slots of the centres, (B,K).
    """
    return centres.gather(1, nearest(apart, centres)).scatter(1, centres, centres)
