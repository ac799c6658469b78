"""The ratio losses that hold token usage to its target."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

FORMS = ("batch", "image")


@register("loss", "ratio")
@dataclass(frozen=True)
class RatioLoss:
    """SViT Eq. 2 (`form: batch`: usage averaged over tokens and images, so images may differ) or Eq. 3 (`form: image`).

    Args:
        weight: lambda, 4 in SViT, 2 in DynamicViT.
        form: batch or image. Eq. 3 - Eq. 2 is the variance of usage over the images of a batch.
    """

    weight: float = 4.0
    form: str = "batch"

    def __post_init__(self) -> None:
        if self.form not in FORMS or not self.weight >= 0:
            raise InvalidConfig(f"ratio loss: weight {self.weight}, form {self.form!r}; allowed: weight >= 0, form {' or '.join(FORMS)}")

    def __call__(self, usages: Sequence[tuple[Tensor, float]]) -> Tensor:
        """Return lambda times the mean over gates of the squared distance of usage (B,) from its target."""
        terms = [(usage.mean() - target) ** 2 if self.form == "batch" else ((usage - target) ** 2).mean() for usage, target in usages]
        return self.weight * torch.stack(terms).mean()
