"""Defines A-ViT's losses on the number of layers that tokens run through and on the layers in which they halt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.utils.distributed import average

FEWEST, MOST = 0.01, 0.99  # shares of halting are clamped to this range, as released


@register("loss", "ponder")
@dataclass(frozen=True)
class PonderLoss(Loss):
    """Adds weight * mean(rho) + prior_weight * KL(prior || halting) (A-ViT section 3); it reads the notes of `a_vit`.

    rho is the number of layers of a token plus its remainder; the class token is included. `halting` holds the halting scores of each
    layer, averaged over tokens and images and divided by their sum. The prior is a Gaussian over layers that sums to 1.

    The released code differs: it averages over a slice of the batch instead of the tokens, centres the prior one layer later, scales it to
    a sum near 2, and divides the divergence by the number of layers.

    Args:
        weight: alpha_p; 5e-4 in the paper.
        prior_weight: alpha_d; 1e-3 in the paper.
        centre: Layer of the prior's peak, counted from 1; 8 of 12 in the paper. None takes two thirds of the depth.
        sigma: Standard deviation of the prior, in layers.

    Raises:
        InvalidConfig: A weight is negative, or sigma is not positive.
    """

    weight: float = 5e-4
    prior_weight: float = 1e-3
    centre: float | None = None
    sigma: float = 1.0

    def __post_init__(self) -> None:
        bad = [
            (not min(self.weight, self.prior_weight) >= 0, "weight and prior_weight are 0 and more"),
            (not self.sigma > 0, f"sigma is {self.sigma}, allowed are numbers above 0"),
        ]
        problems = [f"losses.ponder: {text}" for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a forward pass, or None if no tokens halted in it."""
        depths, halting = facts.of("ponder"), facts.of("halting")
        if not depths:
            return None
        return self.weight * depths[-1].mean() + self.prior_weight * self.divergence(halting)

    def divergence(self, halting: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Return KL(prior || halting).

        Args:
            halting: For each layer in order, its number counted from 1 and each image's mean halting score (B,).
        """
        means = torch.stack(average([scores.mean() for _, scores in halting]))
        shares = (means / means.sum().clamp(min=1e-12)).clamp(FEWEST, MOST)
        layers = torch.tensor([layer for layer, _ in halting], dtype=torch.float32, device=means.device)
        centre = self.centre if self.centre is not None else float(layers[-1]) * 2 / 3
        prior = (-0.5 * ((layers - centre) / self.sigma) ** 2).log_softmax(0)
        return F.kl_div(shares.log(), prior, reduction="sum", log_target=True)
