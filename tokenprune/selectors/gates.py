"""Networks that turn tokens into log-probabilities of keeping: SViT's 2-layer MLP and DynamicViT's predictor, its "complex" gate."""

import torch
from torch import Tensor, nn


class MLPGate(nn.Module):
    """SViT section 3.2: LN, Linear(C, C/4), GELU, Linear(C/4, 2) on every token by itself (the paper omits the LN, its code has it)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.LayerNorm(dim, eps=1e-5), nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the two logits, keep first."""
        return self.layers[-1]

    def forward(self, tokens: Tensor, policy: Tensor) -> Tensor:
        """Return (B,M,2), index 0 = keep, of tokens (B,M,C); `policy` (B,M) is not looked at."""
        return self.layers(tokens).log_softmax(-1)

    def macs(self, slots: float) -> float:
        """Return N (C^2/4 + C/2)."""
        return slots * (self.dim * (self.dim // 4) + 2 * (self.dim // 4))


class PredictorGate(nn.Module):
    """DynamicViT Eq. 1-6: half of the channels stay local, half become a mean over kept tokens; then a 3-layer MLP."""

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
        """The layer that gives the two logits, keep first."""
        return self.out[-1]

    def forward(self, tokens: Tensor, policy: Tensor) -> Tensor:
        """Return (B,M,2), index 0 = keep, of tokens (B,M,C); the global half averages over `policy` (B,M), clamped against 0/0."""
        local, shared = self.into(tokens).chunk(2, -1)
        weight = policy.unsqueeze(-1)
        mean = (shared * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        return self.out(torch.cat([local, mean.expand_as(shared)], -1)).log_softmax(-1)

    def macs(self, slots: float) -> float:
        """Return N (C^2 + C^2/2 + C^2/8 + C/2)."""
        C = self.dim
        return slots * (C * C + C * (C // 2) + (C // 2) * (C // 4) + 2 * (C // 4))


GATES = {"mlp": MLPGate, "complex": PredictorGate}
