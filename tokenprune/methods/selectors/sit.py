"""Defines SiT's token slimming module (Zong et al., ECCV 2022, section 3.2): an MLP weighs how much of each token enters each new one."""

import torch
from torch import Tensor, nn

from tokenprune.engine.selector import Context
from tokenprune.methods.selectors.shared.mixing import MixingSelector, over_live
from tokenprune.registry import register


@register("selector", "sit")
class TokenSlimming(MixingSelector):
    """Makes new tokens as weighted means of all: softmax over tokens of s * MLP(LN(x)), C -> C/2 -> GELU -> K, where s is learned from 1.

    The reverse module, which rebuilds all tokens for a distillation in training, is in the official code alone. It is left out here, as in
    TokenReduction's code.
    """

    module = "token slimming module"
    paper = "SiT, ECCV 2022"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        C, half = context.dim, context.dim // 2
        self.weigh = nn.Sequential(nn.LayerNorm(C, eps=1e-5), nn.Linear(C, half), nn.GELU(), nn.Linear(half, self.count))
        self.scale = nn.Parameter(torch.ones(()))
        for layer in self.weigh:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def mixtures(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, None]:
        """Return weights (B,K,M) that sum to 1 over live tokens."""
        return over_live((self.scale * self.weigh(tokens)).to(tokens.dtype).transpose(-2, -1), live), None

    def macs(self, slots: float) -> float:
        """Return M (C^2/2 + K C/2) of the MLP, plus K M C of the mixtures."""
        C = self.context.dim
        return slots * (C * (C // 2) + (C // 2) * self.count + self.count * C)
