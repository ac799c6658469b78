"""Defines the loss of auxiliary heads: heads inside the encoder learn the task's own labels (Cropr section 3.1-3.2)."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.loss import IGNORED, Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

REDUCTIONS = ("sum", "mean")
TARGETS = ("patches", "presence", "targets")  # fields of `LossInputs` to learn from: the first one that is given is used


@register("loss", "auxiliary")
@dataclass(frozen=True)
class AuxiliaryLoss(Loss):
    """Adds weight * sum over modules of the loss of their predictions; it reads the notes `auxiliary` (B,K) or (B,Nq,K) and `token_logits`.

    The task decides what is learned. `patches` is the class of each position: cross-entropy over the positions that have one, where the Nq
    = N predictions belong to the positions in raster order. `presence` says which classes an image holds: binary cross-entropy, averaged
    over classes. `targets` is the label of the image: cross-entropy, which every query learns. `token_logits` is a pair of logits (B,M,K)
    and positions (B,M) with -1 for none: predictions of single tokens (DToP). Each term is a mean over images and queries.

    Args:
        weight: Weight of the sum; 1 as released.
        reduce: How the terms of the modules are joined: `sum`, as released, or `mean`.

    Raises:
        InvalidConfig: The weight is negative or the reduction is unknown. In training: the pass is given nothing to learn, or the number of
            predictions differs from the number of positions.
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
        """Return the reason why a task that gives these facts cannot train with the loss, or None if it can."""
        allowed = "classification, segmentation or detection"
        return None if set(gives) & set(TARGETS) else f"losses.{cls.name} needs labels, and task={task} gives none; use {allowed}"

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a forward pass, or None if the pass noted no auxiliary predictions."""
        terms = [of_image(logits.float(), facts) for logits in facts.of("auxiliary")]
        terms += [of_tokens(logits.float(), places, facts) for logits, places in facts.of("token_logits")]
        if not terms:
            return None
        total = torch.stack(terms)
        return self.weight * (total.sum() if self.reduce == "sum" else total.mean())


def of_image(logits: Tensor, facts: LossInputs) -> Tensor:
    """Return the loss of predictions (B,K) of one query or (B,Nq,K) of several queries."""
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
    """Return the loss of token predictions.

    Args:
        logits: Predictions, (B,M,K).
        places: Position of each token, (B,M). Tokens at -1 have no position and do not count.
        facts: The inputs of the loss.
    """
    if facts.patches is None:
        labels = _given(facts)
        if labels.ndim == 2:
            return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1], 0))
        labels = labels.unsqueeze(1).expand_as(places)
    else:
        labels = facts.patches.gather(1, places.clamp(min=0))
    return labelled(logits, labels.masked_fill(places < 0, IGNORED))


def labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B,Q,K) over the labels (B,Q) other than `IGNORED`, or 0 if there are none."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _given(facts: LossInputs) -> Tensor:
    if facts.targets is None:
        raise InvalidConfig("losses.auxiliary was given no targets; give the labels: model.losses(outputs, targets=labels)")
    return facts.targets
