"""Defines distillation from the unpruned model: its logits, and its tokens where the student kept them (DynamicViT section 3.4)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

TOKEN_LOSSES = ("mse", "kl")


@register("loss", "distill")
@dataclass(frozen=True)
class Distillation(Loss):
    """Adds logits * KL(teacher || student), averaged over images at temperature 1, and tokens * distance of the kept patch tokens.

    Args:
        logits: Weight of the first term; 0.5 in DynamicViT.
        tokens: Weight of the second term; 0.5 in DynamicViT.
        kind: Distance of the second term, on tokens after the final norm. `mse` is a mean over kept tokens and channels. `kl` compares
            softmaxes over channels and is a mean over kept tokens; it is meant for models trained by token labelling.

    Raises:
        InvalidConfig: A weight is negative, or the kind is unknown.
    """

    logits: float = 0.5
    tokens: float = 0.5
    kind: str = "mse"

    needs = ("images", "logits", "teacher")

    def __post_init__(self) -> None:
        weights = {"logits": self.logits, "tokens": self.tokens}
        problems = [f"losses.distill.{name} is {value}, allowed are 0 and more" for name, value in weights.items() if not value >= 0]
        if self.kind not in TOKEN_LOSSES:
            problems.append(f"losses.distill.kind is {self.kind!r}, allowed are {' and '.join(TOKEN_LOSSES)}")
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor:
        """Return the weighted sum of both terms. The teacher sees the same images and gets no gradient."""
        images, said, teacher = facts.given(self.name, *self.needs)
        with torch.no_grad():
            taught = teacher.encode(images)
            logits = teacher.logits(taught)
        kept = facts.outputs.state.present()
        return self.logits * divergence(logits, said).mean() + self.tokens * self.of_tokens(taught.map, facts.outputs.map, kept)

    def of_tokens(self, teacher: Tensor, student: Tensor, kept: Tensor) -> Tensor:
        """Return the distance of two maps (B,N,C) at the positions `kept` (B,N), or 0 if no position is kept."""
        near = divergence(teacher, student) if self.kind == "kl" else (student.float() - teacher.float()).square().mean(-1)
        return near.where(kept, 0.0).sum() / kept.sum().clamp(min=1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of the softmaxes over the last dimension, in nats."""
    told, said = (scores.float().log_softmax(-1) for scores in (teacher, student))
    return F.kl_div(said, told, reduction="none", log_target=True).sum(-1)
