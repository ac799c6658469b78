"""Defines the base of selectors that sample keep/drop gates in training and may keep a different number in each image at test time."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.gates import at_least_one, cut, drawn, settled
from tokenprune.methods.selectors.shared.noise import of_prefix, uniform

EVAL_MODES = ("threshold", "sample", "gumbel", "topk")


class GatedSelector(Selector):
    """Base of selectors whose gates are drawn by Gumbel-softmax in training.

    Args:
        context: see `Context`.
        eval_mode: `threshold` keeps p > threshold, a buffer that is 0.5 until calibrated. `sample` draws as the released codes do at test
            time, but makes the same draw each time. `gumbel` is their very draw, from torch's generator: it differs from pass to pass, is
            repeated by torch.manual_seed, and depends on the other images of a batch. `topk` keeps the schedule's count.
        calibration_images: Number of training images that set each threshold after training, so that usage meets its target; 0 for none.
        tau: Gumbel temperature. The gradient depends on it; P(keep) does not.
        seed: Seed of the draw under `sample`.

    Raises:
        InvalidConfig: The eval_mode is unknown, or the number of images is negative.
    """

    budget = "dynamic"
    gated = True
    learns = True
    count_role = "target"
    module = "gating module"
    evaluated = {"eval_mode": "sample"}
    threshold: Tensor

    def __init__(self, context: Context, eval_mode: str, calibration_images: int, tau: float, seed: int) -> None:
        super().__init__(context)
        problems = []
        if eval_mode not in EVAL_MODES:
            problems.append(f"{self.name}: eval_mode is {eval_mode!r}; allowed: {', '.join(EVAL_MODES)}")
        if calibration_images < 0:
            problems.append(f"{self.name}: calibration_images is {calibration_images}; allowed: 0 (no calibration) and more")
        if problems:
            raise InvalidConfig(problems)
        self.eval_mode, self.tau, self.seed, self.number = eval_mode, tau, seed, 0
        self.calibration_images = calibration_images if eval_mode == "threshold" else 0
        self.register_buffer("threshold", torch.tensor(0.5))

    @property
    def caveat(self) -> str:
        """Return the remark on what the mode means for the counts."""
        fresh = self.eval_mode == "threshold" and float(self.threshold) == 0.5
        if fresh:
            return "gates keep p > 0.5, not calibrated to the target: read the kept share"
        anew = ", anew in every pass: read the mean of several" if self.eval_mode == "gumbel" else ""
        return f"gates draw at test time, as the released code does{anew}" if self.eval_mode in ("sample", "gumbel") else ""

    @property
    def counts_vary(self) -> bool:
        """Tell whether images may keep different numbers of tokens: always, except under `topk` at test time."""
        return self.training or self.eval_mode != "topk"

    @property
    def draws(self) -> bool:
        """Tell whether gates are drawn at test time."""
        return self.eval_mode in ("sample", "gumbel")

    def redraw(self, number: int) -> None:
        """Take draw `number` of `sample` from now on; 0 is the one of the selector's own seed, and `gumbel` draws anew in any case."""
        self.number = number

    def decide(
        self, seen: Observation, budget: Budget, log_probs: Tensor, always: Tensor | None = None, of_cls: Tensor | None = None
    ) -> Decision:
        """Return the drawn gate in training, and the choice of `eval_mode` at test time.

        Args:
            seen: The observation that `score` gets.
            budget: The budget that `score` gets.
            log_probs: Log-probabilities, (B,M,2), index 0 = keep.
            always: Live slots that stay whatever their score, (B,M). Under `topk` they are part of the schedule's count.
            of_cls: Log-probabilities of the class token, (B,1,2), where it is a candidate, too; `topk` does not drop it.
        """
        log_keep, live = log_probs[..., 0], seen.live
        p_keep = log_keep.exp()
        if self.training or self.eval_mode == "gumbel":
            return self._drawn(seen, log_probs, always, of_cls)
        if self.eval_mode == "topk":
            ranked = p_keep if always is None else p_keep.masked_fill(always, float("inf"))
            return keep_top(ranked, seen.mask, budget.keep).replace(score=p_keep)
        # Keep if p exceeds a uniform number. This equals the hard Gumbel draw, which has P(keep) = p for any tau.
        threshold = self.eval_mode == "threshold"
        bar = self.threshold if threshold else uniform(seen, self.seed + self.number)
        wanted = (p_keep > bar) & live if always is None else (p_keep > bar) & live | always
        decision = Decision(at_least_one(wanted, p_keep, live), score=p_keep, log_prob=log_keep)
        if of_cls is None:
            return decision
        bar = bar if threshold else of_prefix(seen, self.seed + self.number)
        return decision.replace(prefix_keep=_beside(of_cls[..., 0].exp() > bar, seen))

    def _drawn(self, seen: Observation, log_probs: Tensor, always: Tensor | None, of_cls: Tensor | None) -> Decision:
        """Return the decision drawn by Gumbel-softmax; the class token's number is drawn before those of the slots, as released."""
        log_keep = log_probs[..., 0]
        gates = drawn(log_probs if of_cls is None else torch.cat([of_cls, log_probs], 1), self.tau)
        keep, gate = settled(gates[:, -log_probs.shape[1] :], log_keep, seen.live)
        if always is not None:
            keep, gate = keep | always, gate.masked_fill(always, 1.0)
        decision = Decision(keep, score=log_keep.exp(), gate=gate if self.training else None, log_prob=log_keep)
        if of_cls is None:
            return decision
        prefix_gate = _beside(gates[:, :1], seen)
        return decision.replace(prefix_keep=prefix_gate > 0, prefix_gate=prefix_gate if self.training else None)

    def calibrate(self, scores: Tensor, keep: float) -> None:
        """Set the threshold so that `keep` of the scores (n,) lie above it."""
        self.threshold.fill_(cut(scores, keep))


def _beside(cls: Tensor, seen: Observation) -> Tensor:
    """Return values of the class token (B,1) as those of all prefix tokens (B,P); the others have 1, or True."""
    return torch.cat([cls, torch.ones_like(seen.state.prefix[:, 1:, 0], dtype=cls.dtype)], 1)
