"""Defines gates, which turn tokens into log-probabilities of keeping (SViT's 2-layer MLP, DynamicViT's predictor), and draws from them.

Under autocast the layers of a gate compute in half precision. Its probabilities and draws have the precision of the tokens.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.indexing import traced


class MLPGate(nn.Module):
    """Applies LN, Linear(C, C/4), GELU, Linear(C/4, 2) to every token by itself (SViT section 3.2).

    The paper omits the LN; its code has it. `alone` says that no token's answer depends on others.

    Args:
        dim: Channels C.
    """

    alone = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.LayerNorm(dim, eps=1e-5), nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2))

    @property
    def last(self) -> nn.Linear:
        """Return the layer that gives the two logits, keep first."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, tokens: Tensor, policy: Tensor | None) -> Tensor:
        """Return log-probabilities (B,M,2), index 0 = keep, of tokens (B,M,C). It does not use `policy` (B,M), which may be None."""
        return self.layers(tokens).to(tokens.dtype).log_softmax(-1)

    def macs(self, slots: float) -> float:
        """Return N (C^2/4 + C/2)."""
        return slots * (self.dim * (self.dim // 4) + 2 * (self.dim // 4))


class PredictorGate(nn.Module):
    """Keeps half of the channels local, averages the other half over kept tokens, and applies a 3-layer MLP (DynamicViT Eq. 1-6).

    Args:
        dim: Channels C.
    """

    alone = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.into = nn.Sequential(nn.LayerNorm(dim, eps=1e-5), nn.Linear(dim, dim), nn.GELU())
        self.out = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def last(self) -> nn.Linear:
        """Return the layer that gives the two logits, keep first."""
        return cast(nn.Linear, self.out[-1])

    def forward(self, tokens: Tensor, policy: Tensor) -> Tensor:
        """Return log-probabilities (B,M,2), index 0 = keep, of tokens (B,M,C).

        The global half is a mean over `policy` (B,M), whose sum is clamped so that no 0/0 occurs.
        """
        local, shared = self.into(tokens).chunk(2, -1)
        weight = policy.unsqueeze(-1)
        mean = (shared * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        return self.out(torch.cat([local, mean.expand_as(shared)], -1)).to(tokens.dtype).log_softmax(-1)

    def macs(self, slots: float) -> float:
        """Return N (C^2 + C^2/2 + C^2/8 + C/2)."""
        C = self.dim
        return slots * (C * C + C * (C // 2) + (C // 2) * (C // 4) + 2 * (C // 4))


GATES = {"mlp": MLPGate, "complex": PredictorGate}


def at_least_one(keep: Tensor, score: Tensor, live: Tensor) -> Tensor:
    """Return keep (B,M), with the best live slot added for images that would keep nothing (the released SViT gives NaN for these)."""
    if keep.device.type == "cpu" and not traced() and bool(keep.any(1).all()):  # this check is free on a CPU
        return keep
    best = score.detach().masked_fill(~live, float("-inf")).argmax(1, keepdim=True)
    empty = ~keep.any(1, keepdim=True)
    return keep | (empty & torch.zeros_like(keep).scatter_(1, best, 1))


def sampled(log_probs: Tensor, live: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """Draw hard keep decisions from log_probs (B,M,2), index 0 = keep, by Gumbel-softmax.

    Returns:
        keep: Kept slots, (B,M) bool, among live slots, at least one an image.
        gate: The same as 0/1, (B,M), with a straight-through gradient.
    """
    return settled(drawn(log_probs, tau), log_probs[..., 0], live)


def drawn(log_probs: Tensor, tau: float = 1.0) -> Tensor:
    """Return 0/1 gates (B,M) drawn from log_probs (B,M,2), index 0 = keep, by torch's Gumbel-softmax, with a straight-through gradient."""
    return F.gumbel_softmax(log_probs, tau=tau, hard=True)[..., 0]


def settled(gate: Tensor, log_keep: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `sampled` does of drawn gates (B,M); log_keep (B,M) says which slot stays where none would."""
    keep = at_least_one((gate > 0) & live, log_keep, live)
    return keep, gate + (keep.to(gate.dtype) - gate).detach()


def cut(scores: Tensor, keep: float) -> float:
    """Return a threshold t such that the number of scores (n,) above t is as near to `keep` as ties allow.

    The threshold lies halfway between two scores, so that rounding noise moves no token over it. It is -inf if all stay.
    """
    values, counts = torch.unique(scores.detach().double(), return_counts=True)
    values, kept = values.flip(0), counts.flip(0).cumsum(0)  # best first; kept[i]: how many stay if values[i] is the last one that stays
    last = int((kept - keep).abs().argmin())
    if last + 1 == len(values):
        return float("-inf")
    halfway = ((values[last] + values[last + 1]) / 2).to(scores.dtype)
    return float(halfway if halfway < values[last] else values[last + 1])  # adjacent floating-point numbers have none between them
