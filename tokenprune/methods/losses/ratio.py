"""Defines the ratio losses, which hold token usage to its target."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.utils.distributed import average

FORMS = ("batch", "image")
SCOPES = ("global", "per_device")


@register("loss", "ratio")
@dataclass(frozen=True)
class RatioLoss(Loss):
    """Adds weight * the mean over gates of (usage - target)^2, by SViT Eq. 2 (`form: batch`) or Eq. 3 (`form: image`).

    Eq. 2 averages usage over tokens and images, so images may differ. Eq. 3 takes the usage of each image by itself. Eq. 3 - Eq. 2 is the
    variance of usage over the images of a batch.

    Args:
        weight: lambda; 4 in SViT, 2 in DynamicViT.
        form: `batch` for Eq. 2 or `image` for Eq. 3.
        scope: Images that the mean of Eq. 2 runs over when several processes train. `global` takes those of all processes, so that the loss
            and its gradient are those of one process with the whole batch. `per_device` takes a process's own images, as SViT's released
            code does. Eq. 3 is a mean over images either way.

    Raises:
        InvalidConfig: The weight is negative, or the form or scope is unknown.
    """

    weight: float = 4.0
    form: str = "batch"
    scope: str = "global"

    def __post_init__(self) -> None:
        bad = [
            (not self.weight >= 0, f"losses.ratio.weight is {self.weight}, allowed are 0 and more"),
            (self.form not in FORMS, f"losses.ratio.form is {self.form!r}, allowed are {' and '.join(FORMS)}"),
            (self.scope not in SCOPES, f"losses.ratio.scope is {self.scope!r}, allowed are {' and '.join(SCOPES)}"),
        ]
        problems = [text for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a forward pass, or None if no gate noted its usage."""
        usages = facts.of("usage")
        return self(usages) if usages else None

    def __call__(self, usages: Sequence[tuple[Tensor, float]]) -> Tensor:
        """Return lambda times the mean over gates of the squared distance of usage (B,) from its target."""
        if self.form == "image":
            terms = [((usage - target) ** 2).mean() for usage, target in usages]
        else:
            means = [usage.mean() for usage, _ in usages]
            means = average(means) if self.scope == "global" else means
            terms = [(mean - target) ** 2 for mean, (_, target) in zip(means, usages, strict=True)]
        return self.weight * torch.stack(terms).mean()
