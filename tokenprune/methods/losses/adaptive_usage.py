"""AdaViT's loss, which holds the use of heads, sub-layers and tokens to a target each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.utils.distributed import average


@register("loss", "adaptive_usage")
@dataclass(frozen=True)
class AdaptiveUsageLoss(Loss):
    """weight * (|heads - target| + |sub-layers - target| + (tokens - target)^2 + minimum); reads `adavit`'s notes.

    Each usage is a mean over images and deciding blocks; that of heads over those blocks only of which at least one sub-layer runs.
    The absolute distances are those of the released code (the paper squares all three), whose other terms (entropy, diversity) are off
    by default and are not here.

    Args:
        weight: 2.
        heads, layers, tokens: targets in [0,1], 0.5 by default, as in the released code; the paper's DeiT-S row does not state its own.
        token_minimum: usage of one image in one block below which the minimum term, minimum_weight * sum of what is missing, sets in.
        minimum_weight: 0 in the released command line, 1 in its class.
    """

    weight: float = 2.0
    heads: float = 0.5
    layers: float = 0.5
    tokens: float = 0.5
    token_minimum: float = 0.1
    minimum_weight: float = 0.0

    def __post_init__(self) -> None:
        shares = ("heads", "layers", "tokens", "token_minimum")
        problems = [
            f"losses.adaptive_usage.{name} is {value}, allowed are {'shares from 0 to 1' if name in shares else '0 and more'}"
            for name, value in asdict(self).items()
            if not 0 <= value <= (1 if name in shares else float("inf"))
        ]
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a pass with noted policies, None of one without."""
        branches, usages = facts.of("branch"), facts.of("usage")
        if not branches:
            return None
        used = torch.stack([usage for usage, _ in usages], 1)  # (B,L) share of tokens
        heads, sublayers = (torch.stack(gates, 1) for gates in zip(*branches, strict=True))
        means = self.usages(heads, sublayers, used)
        distance = (means["heads"] - self.heads).abs() + (means["layers"] - self.layers).abs() + (means["tokens"] - self.tokens) ** 2
        missing = (self.token_minimum - used).clamp(min=0).sum()
        return self.weight * (distance + self.minimum_weight * missing)

    @staticmethod
    def usages(heads: Tensor, sublayers: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        """Return the mean usage of heads (B,L,h), sublayers (B,L,2) and tokens (B,L), over all processes."""
        runs = (sublayers.sum(-1, keepdim=True) > 0.5).to(heads.dtype).expand_as(heads)
        share = (heads * runs).sum() / runs.sum().clamp(min=1)
        return dict(zip(("heads", "layers", "tokens"), average([share, sublayers.mean(), tokens.mean()]), strict=True))
