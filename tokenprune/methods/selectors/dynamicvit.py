"""Defines DynamicViT's predictor (Rao et al., NeurIPS 2021, Eq. 1-6): local and global features give log-probabilities of keeping."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.methods.selectors.shared.gates import PredictorGate, sampled
from tokenprune.registry import register


@register("selector", "dynamicvit")
class DynamicViTPredictor(Selector):
    """Scores tokens by a predictor with a global branch: a Gumbel policy softmax in training, a fixed top-k at test.

    Three of them add 723,750 parameters to DeiT-S.

    Args:
        context: see `Context`.
        tau: Gumbel temperature.
    """

    gated = True
    learns = True
    visibility = "soft"
    module = "gating module"
    paper = "DynamicViT, NeurIPS 2021"

    def __init__(self, context: Context, tau: float = 1.0) -> None:
        super().__init__(context)
        self.gate, self.tau = PredictorGate(context.dim), tau

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate in training, which the engine multiplies with the previous one, and the top-k of log P(keep) at test."""
        log_probs = self.gate(seen.tokens, seen.policy())
        if not self.training:
            return keep_top(log_probs[..., 0], seen.mask, budget.keep)
        keep, gate = sampled(log_probs, seen.live, self.tau)
        return Decision(keep, score=log_probs[..., 0].exp(), gate=gate, log_prob=log_probs[..., 0])

    def macs(self, slots: float) -> float:
        """Return N (C^2 + C^2/2 + C^2/8 + C/2)."""
        return self.gate.macs(slots)
