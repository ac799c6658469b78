"""Defines AdaViT's loss, which holds the usage of heads, sub-layers and tokens to one target each."""

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
    """Adds weight * (|heads - target| + |sub-layers - target| + (tokens - target)^2 + minimum); it reads the notes of `adavit`.

    Each usage is a mean over images and deciding blocks. The usage of heads is a mean over the blocks in which at least one sub-layer runs.
    The absolute distances are those of the released code; the paper squares all three. The entropy and diversity terms of the released code
    are off there by default and are not implemented here.

    Args:
        weight: Weight of the whole loss.
        heads: Target usage of heads, in [0,1]. All three targets are 0.5 in the released code; the paper does not state them for DeiT-S.
        layers: Target usage of sub-layers, in [0,1].
        tokens: Target usage of tokens, in [0,1].
        token_minimum: The token usage of one image in one block below which the minimum term sets in.
        minimum_weight: The minimum term is this weight times the sum of the missing usage. It is 0 in the released command line and 1 in
            the released class.

    Raises:
        InvalidConfig: A target or minimum is outside [0,1], or a weight is negative.
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
        """Return the loss of a forward pass, or None if the pass noted no policies."""
        branches, usages = facts.of("branch"), facts.of("usage")
        if not branches:
            return None
        used = torch.stack([usage for usage, _ in usages], 1)  # (B,L) share of tokens
        heads, sublayers = (torch.stack(gates, 1) for gates in zip(*(branch[:2] for branch in branches), strict=True))
        means = self.usages(heads, sublayers, used)
        distance = (means["heads"] - self.heads).abs() + (means["layers"] - self.layers).abs() + (means["tokens"] - self.tokens) ** 2
        missing = (self.token_minimum - used).clamp(min=0).sum()
        return self.weight * (distance + self.minimum_weight * missing)

    @staticmethod
    def usages(heads: Tensor, sublayers: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        """Return the mean usages over all processes, as scalars.

        Args:
            heads: Gates of heads, (B,L,h).
            sublayers: Gates of sub-layers, (B,L,2).
            tokens: Share of tokens used, (B,L).
        """
        runs = (sublayers.sum(-1, keepdim=True) > 0.5).to(heads.dtype).expand_as(heads)
        share = (heads * runs).sum() / runs.sum().clamp(min=1)
        return dict(zip(("heads", "layers", "tokens"), average([share, sublayers.mean(), tokens.mean()]), strict=True))
