"""Defines a score without attention: the high-frequency part of a token, with the rest folded into one mean token."""

import torch

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector, keep_top
from tokenprune.registry import register


@register("selector", "frequency")
class HighFrequency(Selector):
    """Keeps the tokens of greatest high-pass norm, ||x_j - mean_k x_k||, and folds the others into their plain mean.

    The mean over tokens is the component of frequency zero (the DC component) of the sequence, and attention is a low-pass filter: it
    lets tokens move towards it. So the tokens that differ most from the mean hold what would be lost, and one mean token holds the rest
    (frequency-aware token reduction, section 3). The mean runs over the live patches. No attention is read, so that any attention kernel
    goes with it. The paper's window-wise mean tokens and its learned weights are left out: there is one mean token.
    """

    module = "parameter-free"
    label = "Frequency"
    paper = "Frequency-aware reduction"
    published = {"treatment": "fuse", "schedule": {"name": "stages", "of": "current", "rounding": "ceil"}}

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of greatest high-pass norm; the weights of the others in a fused token sum to 1."""
        x, mask = seen.tokens, seen.mask
        if mask is None:
            mean, rest = x.mean(1, keepdim=True), torch.full_like(x[:, :1, 0], x.shape[1] - budget.keep)
        else:
            live = mask.to(x.dtype).unsqueeze(-1)
            mean, rest = (x * live).sum(1, keepdim=True) / live.sum(1, keepdim=True), live.sum(1) - budget.keep
        score = (x - mean).norm(dim=-1)
        return keep_top(score, mask, budget.keep, weight=(1 / rest.clamp(min=1)).expand_as(score))

    def macs(self, slots: float) -> float:
        """Return M C of the norms."""
        return slots * self.context.dim
