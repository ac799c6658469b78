"""Defines PatchMerger (Renggli et al., 2022, section 3): learned queries attend to all tokens, without projections."""

import torch
from torch import Tensor, nn

from tokenprune.engine.selector import Context
from tokenprune.methods.selectors.shared.mixing import MixingSelector, over_live
from tokenprune.registry import register


@register("selector", "patch_merger")
class PatchMerger(MixingSelector):
    """Makes new tokens A LN(x) with A = softmax over tokens of c Q LN(x)^T, Q (K,C) drawn from N(0,1): normalised tokens, no residual.

    The paper merges once, in the middle of the network; here the schedule says how often.

    Args:
        context: see `Context`.
        scaled: c = C^-0.5 instead of 1. With 1, TokenReduction's default, one token takes nearly all the weight at first.
    """

    module = "learned queries"
    paper = "PatchMerger, 2022"

    def __init__(self, context: Context, scaled: bool = False) -> None:
        super().__init__(context)
        self.norm = nn.LayerNorm(context.dim, eps=1e-5)
        self.queries = nn.Parameter(torch.randn(self.count, context.dim))
        self.scale = context.dim**-0.5 if scaled else 1.0

    def mixtures(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (B,K,M) that sum to 1 over live tokens, and LN(x)."""
        values = self.norm(tokens)
        return over_live((self.scale * (self.queries @ values.transpose(-2, -1))).to(tokens.dtype), live), values

    def macs(self, slots: float) -> float:
        """Return 2 K M C, for the logits and the mixtures."""
        return 2 * slots * self.queries.numel()
