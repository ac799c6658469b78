"""Defines the Sinkhorn tokenizer (Haurum et al., 2022, as in TokenReduction): an optimal transport plan from tokens to learned slots."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.selector import Context
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.mixing import MixingSelector
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")
_MODERATE = 0.05  # exp(1 / eps) is below 5e8 from here on


@register("selector", "sinkhorn")
class SinkhornTokenizer(MixingSelector):
    """Shares out each token's mass of 1 among K learned unit vectors, by entropic transport on cosines; each vector gets about M/K.

    Args:
        context: see `Context`.
        eps: Strength of the entropy. With 1.0, as published, cosines hardly matter and all new tokens are much the same.
        iterations: Number of scaling rounds, at least 1.
        variant: `fixed` mixes the tokens as they are, by the plan over each slot's mass, so that new tokens have their scale. `released`
            sums unit tokens by the plan itself, whatever the scale of the tokens was (TokenReduction).

    Raises:
        InvalidConfig: eps is not positive, iterations is below 1, or the variant is unknown.
    """

    module = "learned slots"
    paper = "Sinkhorn tokenizer, 2022"

    def __init__(self, context: Context, eps: float = 1.0, iterations: int = 3, variant: str = "fixed") -> None:
        super().__init__(context)
        problems = []
        if not eps > 0:
            problems.append(f"{self.name}: eps is {eps}; allowed: > 0")
        if not isinstance(iterations, int) or iterations < 1:
            problems.append(f"{self.name}: iterations is {iterations!r}; allowed: a whole number >= 1")
        if problems:
            raise InvalidConfig(problems)
        self.eps, self.iterations, self.variant = eps, iterations, one_of(self.name, "variant", variant, VARIANTS)
        self.slots = nn.Parameter(torch.randn(self.count, context.dim))

    def mixtures(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the plan (B,K,M) and the unit tokens for `released`, or the plan over its slots' masses for `fixed`."""
        unit = F.normalize(tokens, dim=-1)
        plan = transport(F.normalize(self.slots, dim=-1) @ unit.transpose(-2, -1), live, self.eps, self.iterations)
        return (plan, unit) if self.variant == "released" else (plan / plan.sum(-1, keepdim=True), None)

    def macs(self, slots: float) -> float:
        """Return 2 K M C, for the cosines and the mixtures."""
        return 2 * slots * self.slots.numel()


def transport(scores: Tensor, live: Tensor, eps: float, iterations: int) -> Tensor:
    """Return a plan (B,K,M) by Sinkhorn's scaling of exp(scores / eps), given cosines (B,K,M).

    Each iteration scales rows to equal sums and then columns. Live tokens (B,M) give 1 each, because the columns come last; dead tokens
    give nothing. The marginals of the released code, whose two sides have unequal mass, differ by constants that cancel. Where exp(1 / eps)
    is far from the limits of single precision, rows and columns have factors of their own, so that an iteration is two products of the
    matrix and a vector; otherwise everything is in logarithms.
    """
    if eps >= _MODERATE:
        return _scaled((scores.float() / eps).exp(), live.float().unsqueeze(2), iterations)
    kernel, dead = scores.float() / eps, ~live.unsqueeze(1)
    of_slots, of_tokens = torch.zeros_like(kernel[..., :1]), torch.zeros_like(kernel[:, :1])
    for _ in range(iterations):
        of_slots = -(kernel + of_tokens).masked_fill(dead, float("-inf")).logsumexp(2, keepdim=True)
        of_tokens = -(kernel + of_slots).logsumexp(1, keepdim=True)
    return (kernel + of_slots + of_tokens).exp().masked_fill(dead, 0.0)


def _scaled(kernel: Tensor, live: Tensor, iterations: int) -> Tensor:
    """Return the plan (B,K,M) of a positive kernel (B,K,M); `live` (B,M,1) is 1 or 0."""
    of_tokens, of_slots, share = live, live, live.sum(1, keepdim=True) / kernel.shape[1]
    with torch.autocast(kernel.device.type, enabled=False):
        for _ in range(iterations):
            of_slots = share / (kernel @ of_tokens)  # the tokens' mass in equal shares, so that no factor grows from round to round
            of_tokens = live / (kernel.transpose(1, 2) @ of_slots)
    return kernel * of_slots * of_tokens.transpose(1, 2)
