"""The loss of auxiliary heads: what the task's own head is taught, taught to heads on the way (Cropr section 3.1-3.2)."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.loss import IGNORED, Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

REDUCTIONS = ("sum", "mean")
TARGETS = ("patches", "presence", "targets")  # fields of `LossInputs` to learn from, the first that is given


@register("loss", "auxiliary")
@dataclass(frozen=True)
class AuxiliaryLoss(Loss):
    """weight * sum over modules of the loss of their predictions; reads the notes `auxiliary` (B,K) or (B,Nq,K), and `token_logits`.

    What is learned is what the task gives. `patches`: the class of each position, cross-entropy over those that have one; Nq = N
    predictions are of the positions in raster order. `presence`: which classes an image holds, binary cross-entropy, a mean over classes.
    `targets`: the image's label, cross-entropy; several queries all learn it. `token_logits` is ((B,M,K), positions (B,M), of which -1 has
    none): predictions of single tokens (DToP). Each term is a mean over images and queries.

    Args:
        weight: of the sum, 1 as released.
        reduce: sum, as released, or mean over modules.

    Raises:
        InvalidConfig: a negative weight, an unknown reduction; in training, a pass that is given nothing to learn, predictions of another
            number than positions.
    """

    weight: float = 1.0
    reduce: str = "sum"

    def __post_init__(self) -> None:
        bad = [
            (not self.weight >= 0, f"losses.auxiliary.weight is {self.weight}, allowed are 0 and more"),
            (self.reduce not in REDUCTIONS, f"losses.auxiliary.reduce is {self.reduce!r}, allowed are {' and '.join(REDUCTIONS)}"),
        ]
        problems = [text for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    @classmethod
    def refusal(cls, task: str, gives: Collection[str]) -> str | None:
        """Return why a task that gives these facts cannot train with the loss, or None."""
        allowed = "classification, segmentation or detection"
        return None if set(gives) & set(TARGETS) else f"losses.{cls.name} needs labels, and task={task} gives none; use {allowed}"

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a pass with auxiliary predictions, None of one without."""
        terms = [of_image(logits.float(), facts) for logits in facts.of("auxiliary")]
        terms += [of_tokens(logits.float(), places, facts) for logits, places in facts.of("token_logits")]
        if not terms:
            return None
        total = torch.stack(terms)
        return self.weight * (total.sum() if self.reduce == "sum" else total.mean())


def of_image(logits: Tensor, facts: LossInputs) -> Tensor:
    """Return the loss of predictions (B,K) of one query, or (B,Nq,K) of several."""
    if facts.patches is not None:
        if logits.shape[:-1] != facts.patches.shape:
            raise InvalidConfig(
                f"losses.auxiliary: predictions are {tuple(logits.shape[:-1])}, labels of positions {tuple(facts.patches.shape)}; give the"
                " selector one query a position, selector.queries=patches, and images of the size that it was built for"
            )
        return labelled(logits, facts.patches)
    if facts.presence is not None:
        wanted = facts.presence if logits.ndim == 2 else facts.presence.unsqueeze(1).expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype))
    targets = _given(facts)
    if logits.ndim == 3:
        targets = targets.repeat_interleave(logits.shape[1], 0)
    return F.cross_entropy(logits.flatten(0, -2), targets)


def of_tokens(logits: Tensor, places: Tensor, facts: LossInputs) -> Tensor:
    """Return the loss of predictions (B,M,K) of tokens at positions (B,M), -1 for a token without one, which does not count."""
    if facts.patches is None:
        labels = _given(facts)
        if labels.ndim == 2:
            return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1], 0))
        labels = labels.unsqueeze(1).expand_as(places)
    else:
        labels = facts.patches.gather(1, places.clamp(min=0))
    return labelled(logits, labels.masked_fill(places < 0, IGNORED))


def labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B,Q,K) over labels (B,Q) other than `IGNORED`; 0 where there are none."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _given(facts: LossInputs) -> Tensor:
    if facts.targets is None:
        raise InvalidConfig("losses.auxiliary was given no targets; give the labels: model.losses(outputs, targets=labels)")
    return facts.targets
