"""SViT's selector (Liu et al., WACV 2024, section 3.2): a 2-layer MLP gate on every token, Gumbel-softmax in training, Eq. 1."""

import torch
from torch import Tensor

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, keep_top
from tokenprune.selectors.baselines import uniform
from tokenprune.selectors.gates import GATES, at_least_one, cut, sampled
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision

EVAL_MODES = ("threshold", "sample", "topk")


@register("selector", "svit")
class SViTGate(Selector):
    """2-layer MLP gate: LN, Linear(C, C/4), GELU, Linear(C/4, 2); 9 gates add 341,298 parameters to DeiT-S.

    Args:
        context: see `Context`.
        gate: `mlp`, or `complex` for DynamicViT's predictor in its place (SViT Table 4).
        eval_mode: `threshold` keeps p > threshold (a buffer, 0.5 until calibrated); `sample` draws as the released code does at
            test time, but the same draw each time; `topk` keeps the schedule's count.
        calibration_images: training images by which each threshold is set after training, so that usage meets its target; 0: none.
        init_keep_bias: added to the keep logit at initialisation; 0 as released, so training starts by dropping about half.
        tau: Gumbel temperature; P(keep) does not depend on it, the gradient does.
        seed: of the draw under `sample`.

    Raises:
        InvalidConfig: an unknown gate or eval_mode, a negative number of images.
    """

    budget = "dynamic"
    gated = True
    learns = True
    heeds = "target"
    module = "gating module"
    paper = "SViT, WACV 2024"
    published = {"treatment": "reactivate", "schedule": {"name": "every_block"}}

    def __init__(
        self,
        context: Context,
        gate: str = "mlp",
        eval_mode: str = "threshold",
        calibration_images: int = 64,
        init_keep_bias: float = 0.0,
        tau: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(context)
        problems = [f"svit: {name} is {value!r}; allowed: {', '.join(allowed)}" for name, value, allowed in
                    (("gate", gate, GATES), ("eval_mode", eval_mode, EVAL_MODES)) if value not in allowed]
        if calibration_images < 0:
            problems.append(f"svit: calibration_images is {calibration_images}; allowed: 0 (no calibration) and more")
        if problems:
            raise InvalidConfig(problems)
        self.gate = GATES[gate](context.dim)
        with torch.no_grad():
            self.gate.last.bias[0] += init_keep_bias
        self.eval_mode, self.tau, self.seed = eval_mode, tau, seed
        self.calibration_images = calibration_images if eval_mode == "threshold" else 0
        self.register_buffer("threshold", torch.tensor(0.5))

    @property
    def caveat(self) -> str:
        """What the mode means for the counts."""
        fresh = self.eval_mode == "threshold" and float(self.threshold) == 0.5
        drawn = "gates draw at test time, as the released code does" if self.eval_mode == "sample" else ""
        return "gates keep p > 0.5, not calibrated to the target: read the kept share" if fresh else drawn

    @property
    def counts_vary(self) -> bool:
        """Tell whether images may keep different numbers: always, but for `topk` at test time."""
        return self.training or self.eval_mode != "topk"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate in training, and what `eval_mode` says at test time."""
        log_probs = self.gate(seen.tokens, seen.policy())
        p_keep = log_probs[..., 0].exp()
        if self.training:
            keep, gate = sampled(log_probs, seen.live, self.tau)
            return Decision(keep, score=p_keep, gate=gate, log_prob=log_probs[..., 0])
        if self.eval_mode == "topk":
            return keep_top(p_keep, seen.live, budget.keep)
        # keep iff p exceeds a uniform number: the hard Gumbel draw, which has P(keep) = p for any tau
        bar = self.threshold if self.eval_mode == "threshold" else uniform(seen, self.seed)
        return Decision(at_least_one((p_keep > bar) & seen.live, p_keep, seen.live), score=p_keep, log_prob=log_probs[..., 0])

    def calibrate(self, scores: Tensor, keep: float) -> None:
        """Set the threshold so that `keep` of the scores (n,) lie above it."""
        self.threshold.fill_(cut(scores, keep))

    def macs(self, slots: float) -> float:
        """Return the gate's MACs: N (C^2/4 + C/2) for the MLP."""
        return self.gate.macs(slots)
