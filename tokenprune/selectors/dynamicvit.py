"""DynamicViT's prediction module (Rao et al., NeurIPS 2021, Eq. 1-6): local and global features, log-probabilities of keeping."""

import torch
from torch import Tensor, nn

from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, keep_top, sampled
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision


@register("selector", "dynamicvit")
class DynamicViTPredictor(Selector):
    """Predictor with a global branch; Gumbel policy softmax in training, a fixed top-k at test; 3 add 723,750 parameters to DeiT-S.

    Args:
        context: see `Context`.
        tau: Gumbel temperature.
    """

    gated = True
    visibility = "soft"
    module = "gating module"
    paper = "DynamicViT, NeurIPS 2021"

    def __init__(self, context: Context, tau: float = 1.0) -> None:
        super().__init__(context)
        C = context.dim
        self.into = nn.Sequential(nn.LayerNorm(C, eps=1e-5), nn.Linear(C, C), nn.GELU())
        self.out = nn.Sequential(
            nn.Linear(C, C // 2), nn.GELU(), nn.Linear(C // 2, C // 4), nn.GELU(), nn.Linear(C // 4, 2), nn.LogSoftmax(-1)
        )
        self.tau = tau
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate (multiplied with the previous one by the engine) in training, the top-k of log P(keep) at test."""
        policy = seen.live.to(seen.tokens.dtype) if seen.state.gate is None else seen.state.gate
        log_probs = self.log_probabilities(seen.tokens, policy)
        if not self.training:
            return keep_top(log_probs[..., 0], seen.live, budget.keep)
        keep, gate = sampled(log_probs, seen.live, self.tau)
        return Decision(keep, score=log_probs[..., 0].exp(), gate=gate, log_prob=log_probs[..., 0])

    def log_probabilities(self, tokens: Tensor, policy: Tensor) -> Tensor:
        """Return (B,M,2), index 0 = keep, of tokens (B,M,C); the global half averages over the policy (B,M), clamped against 0/0."""
        local, shared = self.into(tokens).chunk(2, -1)
        weight = policy.unsqueeze(-1)
        mean = (shared * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        return self.out(torch.cat([local, mean.expand_as(shared)], -1))

    def macs(self, slots: float) -> float:
        """Return N (C^2 + C^2/2 + C^2/8 + C/2)."""
        C = self.context.dim
        return slots * (C * C + C * (C // 2) + (C // 2) * (C // 4) + 2 * (C // 4))
