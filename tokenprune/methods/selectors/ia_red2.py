"""Defines IA-RED2 (Pan et al., NeurIPS 2021): a multi-head interpreter, taught by reinforcement, drops patches before groups of blocks."""

import torch
from torch import Tensor, nn

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.registry import register

EPS = 1e-6


@register("selector", "ia_red2")
class IARed2Interpreter(Selector):
    """Keeps a patch if I = mean over heads of sigmoid(F_q(x) . F_k(p)) > 0.5, with a learned policy token p; no code is published.

    Training has as many phases as there are groups of blocks (`Observation.progress`). In phase g the interpreters of group g draw from
    Bernoulli(I) and learn from `losses.reinforce` alone, because the tokens that they read are detached. Those of earlier groups are frozen
    and choose as at test time. Those of later groups keep every patch, also in an evaluation before the end of training. The backbone
    learns from the task's loss in the same iterations; the paper alternates. At least one patch stays.

    Args:
        context: see `Context`.
        groups: Number of groups of blocks. The paper has 3 (DeiT), so its interpreters are before blocks 0, 4 and 8 of 12.

    Raises:
        InvalidConfig: The number of groups is below 1.
    """

    budget = "dynamic"
    count_role = "blocks"
    learns = True
    steady = False
    module = "reinforcement learning"
    paper = "IA-RED2, NeurIPS 2021"
    published = {"treatment": "remove", "schedule": {"name": "free", "start": 0, "groups": 3}}

    def __init__(self, context: Context, groups: int = 3) -> None:
        super().__init__(context)
        if groups < 1:
            raise InvalidConfig(f"ia_red2: groups is {groups}; allowed: 1 and more")
        self.groups, self.group = groups, min(context.block * groups // context.depth, groups - 1)
        self.query, self.key = nn.Linear(context.dim, context.dim), nn.Linear(context.dim, context.dim)
        self.policy_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(context.dim), std=0.02))

    @property
    def caveat(self) -> str:
        """Return the remark that the interpreters themselves set the number of tokens."""
        return "interpreters keep what they find informative: no keep rate is aimed at, read the kept share"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep every patch before this group's phase, draw in it, and choose after it."""
        phase = min(int(seen.progress * self.groups), self.groups - 1)
        if self.group > phase:
            return Decision(seen.live, score=torch.ones_like(seen.tokens[..., 0]))
        learning = self.training and self.group == phase
        with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
            informative = self.interpret(seen.tokens.detach())
        keep = torch.rand_like(informative) < informative if learning else informative > 0.5
        keep = at_least_one(keep & seen.live, informative, seen.live)
        notes = {}
        if self.group == phase:
            kept = keep.sum(1) / seen.state.positions
            notes = {"policy": (log_probability(informative, keep, seen.live), kept)}
        return Decision(keep, score=informative, notes=notes)

    def interpret(self, tokens: Tensor) -> Tensor:
        """Return I of tokens (B,M,C), as (B,M) in float32.

        F_q is linear. The product of each head is therefore one product with a vector: F_q's weights times the head's part of F_k(p).
        """
        key = self.key(self.policy_token).view(self.context.heads, -1, 1)  # (h,d,1)
        weight = (self.query.weight.view(*key.shape[:2], -1) * key).sum(1)  # (h,C)
        bias = (self.query.bias.view(*key.shape[:2]) * key.squeeze(-1)).sum(1)
        return (tokens @ weight.t() + bias).float().sigmoid().mean(-1)

    def macs(self, slots: float) -> float:
        """Return h N C, plus 2 C^2 for the policy token."""
        C = self.context.dim
        return slots * self.context.heads * C + 2 * C * C


def log_probability(p: Tensor, keep: Tensor, live: Tensor) -> Tensor:
    """Return the log-probability of a decision, (B,).

    Args:
        p: Probability to keep each slot, (B,M).
        keep: The decision, (B,M).
        live: Live slots, (B,M); the others do not count.
    """
    p = p.clamp(EPS, 1 - EPS)
    return (torch.where(keep, p, 1 - p).log() * live).sum(1)
