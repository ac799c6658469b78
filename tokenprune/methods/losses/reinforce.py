"""Defines IA-RED2's loss: a policy gradient whose baseline is the reward of the greedy choice."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.utils.modes import evaluating

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT


@register("loss", "reinforce")
@dataclass(frozen=True)
class ReinforceLoss(Loss):
    """Adds -weight * mean((R(drawn) - R(greedy)) * log P(drawn)) over images, IA-RED2 section 3; it reads the notes of `ia_red2`.

    R = 1 - (kept share)^2 if the prediction is right, else -tau. The greedy reward comes from one more pass of the same model in evaluation
    mode, without gradient (self-critical training). log P is a sum over patches.

    Args:
        weight: Weight of the loss. The paper has none: it trains interpreters and backbone by turns.
        tau: Penalty of a wrong prediction. Its value is not published.

    Raises:
        InvalidConfig: The weight or tau is negative.
    """

    weight: float = 1.0
    tau: float = 1.0

    needs = ("images", "logits", "targets")

    def __post_init__(self) -> None:
        if not min(self.weight, self.tau) >= 0:
            raise InvalidConfig(f"losses.reinforce: weight is {self.weight}, tau is {self.tau}; allowed are 0 and more")

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a forward pass, or None if nothing was drawn in it."""
        drawn = facts.of("policy")
        if not drawn:
            return None
        images, logits, targets = facts.given(self.name, *self.needs)
        advantage = self.reward(logits, targets, drawn) - self.greedy(facts.model, images, targets)
        return -self.weight * (advantage * torch.stack([log_prob for log_prob, _ in drawn]).sum(0)).mean()

    def reward(self, logits: Tensor, targets: Tensor, policies: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the reward of each image, (B,).

        Args:
            logits: Predictions, (B,K).
            targets: Labels (B,), or soft labels (B,K).
            policies: For each block of the learning group, the pair (log P, kept share (B,)).
        """
        right = logits.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))
        share = torch.stack([kept for _, kept in policies]).mean(0)
        return torch.where(right, 1 - share**2, -self.tau)

    @torch.no_grad()
    def greedy(self, model: "PrunedViT", images: Tensor, targets: Tensor) -> Tensor:
        """Return the reward of the choice without drawing for images (B,3,h,w), (B,); `targets` as in `reward`."""
        with evaluating(model):
            outputs = model.encode(images)
            logits = model.logits(outputs)
        policies = [payload for name, _, payload in outputs.aux if name == "policy"]
        return self.reward(logits, targets, policies)
