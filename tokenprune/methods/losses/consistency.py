"""Defines MCTF's consistency loss, which trains a model to give one class token whether many or few tokens are merged."""

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.at_rate import scheduled
from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.engine.schedule import Schedule
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

_STEP = 100  # a share is drawn in hundredths, as in the released code


@register("loss", "consistency")
@dataclass(frozen=True)
class TokenReductionConsistency(Loss):
    """Adds weight * mean_i ||cls'_i - cls_i||^2 / C + teacher * cross-entropy of a second pass that drops r' tokens, fewer than the first.

    This is MCTF's token reduction consistency (section 3.4). The same weights make both passes. r' is drawn anew for each pass, uniformly
    from 0 .. r - 1; cls' is the class token of that pass after the final norm and gets no gradient from the distance. Only images count of
    which the first pass is sure: the probability of the true class, or of all classes that a mixed image shows, is above `confidence`.

    Args:
        weight: Weight of the distance; 3 is released.
        teacher: Weight of the cross-entropy of the second pass; 1 is released.
        confidence: Probability above which an image counts; 0.4 is released.
        remove: r, for schedules with `remove`; 8 is released, beside 16 of the first pass.
        share: The same for schedules with `keep_rate`: the second pass keeps 1 - s, s drawn in hundredths from 0 to below `share`; 0.15 is
            the default of the released code.

    Raises:
        InvalidConfig: A weight is negative, the confidence is no probability, `remove` is below 1, or `share` is none.
    """

    weight: float = 3.0
    teacher: float = 1.0
    confidence: float = 0.4
    remove: int = 8
    share: float = 0.15

    needs = ("images", "logits", "targets")

    def __post_init__(self) -> None:
        name = "losses.consistency"
        bad = [
            (not min(self.weight, self.teacher) >= 0, f"{name}: weight is {self.weight}, teacher is {self.teacher}; allowed: 0 and more"),
            (not 0 <= self.confidence < 1, f"{name}.confidence is {self.confidence}; allowed: a probability, 0 to below 1"),
            (self.remove < 1, f"{name}.remove is {self.remove}; allowed: a whole number >= 1"),
            (not 1 / _STEP <= self.share < 1, f"{name}.share is {self.share}; allowed: 0.01 to below 1"),
        ]
        if problems := [text for wrong, text in bad if wrong]:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor:
        """Return the loss of a forward pass; a second one is made for it.

        Raises:
            InvalidConfig: The schedule has neither `remove` nor `keep_rate`, or the model has no class token.
        """
        images, logits, targets = facts.given(self.name, *self.needs)
        model = facts.model
        if not facts.outputs.prefix.shape[1]:
            raise InvalidConfig("losses.consistency compares class tokens, and the model has none; allowed: models with a class token")
        with scheduled(model, self.gentler(model.schedule)):
            outputs = model.encode(images)
            said = model.logits(outputs).float()
        apart = (outputs.prefix[:, 0].detach().float() - facts.outputs.prefix[:, 0].float()).square().mean(1)
        sure = (truth(logits, targets) > self.confidence).to(apart.dtype)
        distance = (apart * sure).sum() / sure.sum().clamp(min=1)
        return self.weight * distance + self.teacher * F.cross_entropy(said, targets)

    def gentler(self, schedule: Schedule) -> Schedule:
        """Return a schedule that drops fewer tokens, drawn from torch's generator.

        Raises:
            InvalidConfig: The schedule has neither `remove` nor `keep_rate`.
        """
        options: Any = schedule
        if is_dataclass(schedule) and hasattr(schedule, "remove"):
            return cast(Schedule, replace(options, remove=int(torch.randint(self.remove, (1,)))))
        if is_dataclass(schedule) and getattr(schedule, "keep_rate", None) is not None:
            drawn = int(torch.randint(int(self.share * _STEP), (1,)))
            return cast(Schedule, replace(options, keep_rate=1 - drawn / _STEP))
        name = getattr(schedule, "name", type(schedule).__name__)
        raise InvalidConfig(
            f"losses.consistency draws how much a second pass drops, and schedule {name!r} has neither remove nor keep_rate; use"
            " schedule=per_block or stages"
        )


def truth(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the probability (B,) that logits (B,K) give to the true classes, those whose target is above the least of an image.

    Args:
        logits: Predictions, (B,K).
        targets: Classes (B,), or soft ones (B,K), smoothed and mixed.
    """
    said = logits.detach().float().softmax(-1)
    if targets.ndim == 1:
        return said.gather(1, targets.unsqueeze(1)).squeeze(1)
    return (said * (targets > targets.amin(1, keepdim=True))).sum(1)
