"""IA-RED2's loss: policy gradient with the reward of the greedy choice as baseline."""

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
    """-weight * mean((R(drawn) - R(greedy)) * log P(drawn)) over images, IA-RED2 section 3; reads what `ia_red2` notes.

    R = 1 - (kept share)^2 where the prediction is right, else -tau. The greedy reward is that of one more pass of the same model in
    evaluation mode, without gradient (self-critical training). log P is a sum over patches.

    Args:
        weight: of the loss; the paper trains interpreters and backbone by turns and has none.
        tau: penalty of a wrong prediction; its value is not published.
    """

    weight: float = 1.0
    tau: float = 1.0

    needs = ("images", "logits", "targets")

    def __post_init__(self) -> None:
        if not min(self.weight, self.tau) >= 0:
            raise InvalidConfig(f"losses.reinforce: weight is {self.weight}, tau is {self.tau}; allowed are 0 and more")

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a pass in which something was drawn, None of one without."""
        drawn = facts.of("policy")
        if not drawn:
            return None
        images, logits, targets = facts.given(self.name, *self.needs)
        advantage = self.reward(logits, targets, drawn) - self.greedy(facts.model, images, targets)
        return -self.weight * (advantage * torch.stack([log_prob for log_prob, _ in drawn]).sum(0)).mean()

    def reward(self, logits: Tensor, targets: Tensor, policies: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the reward (B,) of logits (B,K), targets (B,) or soft (B,K), and the learning group's (log P, kept share (B,))."""
        right = logits.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))
        share = torch.stack([kept for _, kept in policies]).mean(0)
        return torch.where(right, 1 - share**2, -self.tau)

    @torch.no_grad()
    def greedy(self, model: "PrunedViT", images: Tensor, targets: Tensor) -> Tensor:
        """Return the reward of what the model chooses for images (B,3,h,w) without drawing, (B,); `targets` as in `reward`."""
        with evaluating(model):
            outputs = model.encode(images)
            logits = model.logits(outputs)
        policies = [payload for name, _, payload in outputs.aux if name == "policy"]
        return self.reward(logits, targets, policies)
