"""The loss of auxiliary heads: what the task's own head is taught, taught to heads on the way (Cropr section 3.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.errors import InvalidConfig
from tokenprune.losses.base import Facts, Loss
from tokenprune.registry import register

REDUCTIONS = ("sum", "mean")


@register("loss", "auxiliary")
@dataclass(frozen=True)
class AuxiliaryLoss(Loss):
    """weight * sum over modules of the cross-entropy of their predictions; reads what `cropr` notes.

    Each term is a mean over images, and over queries where there are several, which all learn the image's label.

    Args:
        weight: of the sum, 1 as released.
        reduce: sum, as released, or mean over modules.

    Raises:
        InvalidConfig: a negative weight, an unknown reduction; in training, a pass that is given no targets.
    """

    weight: float = 1.0
    reduce: str = "sum"

    needs = ("targets",)

    def __post_init__(self) -> None:
        bad = [
            (not self.weight >= 0, f"losses.auxiliary.weight is {self.weight}, allowed are 0 and more"),
            (self.reduce not in REDUCTIONS, f"losses.auxiliary.reduce is {self.reduce!r}, allowed are {' and '.join(REDUCTIONS)}"),
        ]
        problems = [text for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: Facts) -> Tensor | None:
        """Return the loss of a pass with auxiliary predictions, None of one without."""
        predictions = facts.of("auxiliary")
        if not predictions:
            return None
        if facts.targets is None:
            raise InvalidConfig("losses.auxiliary was given no targets; give the labels: model.losses(outputs, targets=labels)")
        terms = torch.stack([cross_entropy(logits.float(), facts.targets) for logits in predictions])
        return self.weight * (terms.sum() if self.reduce == "sum" else terms.mean())


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B,K), or (B,Nq,K) of Nq queries, to classes (B,) or soft targets (B,K) of the images."""
    if logits.ndim == 3:
        targets = targets.repeat_interleave(logits.shape[1], 0)
    return F.cross_entropy(logits.flatten(0, -2), targets)
