"""SViT's selector (Liu et al., WACV 2024, section 3.2): a 2-layer MLP gate on every token, Gumbel-softmax in training, Eq. 1."""

import torch
from torch import nn

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, at_least_one, keep_top, sampled
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision

EVAL_MODES = ("threshold", "sample", "topk")


@register("selector", "svit")
class SViTGate(Selector):
    """2-layer MLP gate: LN, Linear(C, C/4), GELU, Linear(C/4, 2); 9 gates add 341,298 parameters to DeiT-S.

    Args:
        context: see `Context`.
        eval_mode: `threshold` keeps p > threshold (a buffer, 0.5 until calibrated); `sample` draws as the released code does at
            test time; `topk` keeps the schedule's count.
        init_keep_bias: added to the keep logit at initialisation; 0 as released, so training starts by dropping about half.
        tau: Gumbel temperature; P(keep) does not depend on it, the gradient does.
    """

    budget = "dynamic"
    gated = True
    module = "gating module"
    paper = "SViT, WACV 2024"
    published = {"treatment": "reactivate", "schedule": {"name": "every_block"}}

    def __init__(self, context: Context, eval_mode: str = "threshold", init_keep_bias: float = 0.0, tau: float = 1.0) -> None:
        super().__init__(context)
        if eval_mode not in EVAL_MODES:
            raise InvalidConfig(f"svit: eval_mode is {eval_mode!r}; allowed: {', '.join(EVAL_MODES)}")
        C = context.dim
        self.gate = nn.Sequential(nn.LayerNorm(C, eps=1e-5), nn.Linear(C, C // 4), nn.GELU(), nn.Linear(C // 4, 2))
        with torch.no_grad():
            self.gate[-1].bias[0] += init_keep_bias
        self.eval_mode, self.tau = eval_mode, tau
        self.register_buffer("threshold", torch.tensor(0.5))

    @property
    def caveat(self) -> str:
        """The threshold is not calibrated."""
        fresh = self.eval_mode == "threshold" and float(self.threshold) == 0.5
        return "gates keep p > 0.5, not calibrated to the target: read the kept share" if fresh else ""

    @property
    def counts_vary(self) -> bool:
        """Tell whether images may keep different numbers: always, but for `topk` at test time."""
        return self.training or self.eval_mode != "topk"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate in training, and what `eval_mode` says at test time."""
        log_probs = self.gate(seen.tokens).log_softmax(-1)
        p_keep = log_probs[..., 0].exp()
        if not self.counts_vary:
            return keep_top(p_keep, seen.live, budget.keep)
        if self.training or self.eval_mode == "sample":
            keep, gate = sampled(log_probs, seen.live, self.tau)
            return Decision(keep, score=p_keep, gate=gate if self.training else None, log_prob=log_probs[..., 0])
        keep = at_least_one((p_keep > self.threshold) & seen.live, p_keep, seen.live)
        return Decision(keep, score=p_keep, log_prob=log_probs[..., 0])

    def macs(self, slots: float) -> float:
        """Return N (C^2/4 + C/2)."""
        C = self.context.dim
        return slots * (C * (C // 4) + 2 * (C // 4))
