"""Defines the base of selectors that replace all tokens by a fixed number of new ones, each a mixture."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidSchedule


class MixingSelector(Selector):
    """Base of selectors with one learned output, query or slot for each new token: the number K of new tokens is part of the weights.

    Prefix tokens are not mixed and do not enter a mixture.

    Args:
        context: see `Context`; its budget sets K.
    """

    mixing = True
    learns = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.count = context.budget.keep  # K

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the `mixtures` of the live slots.

        Raises:
            InvalidSchedule: The number of new tokens asked for differs from the one that the weights have.
        """
        if budget.keep != self.count:
            built = self.context.budget
            raise InvalidSchedule(
                f"{self.name}: the weights at block {built.block} make {self.count} tokens of {built.live}, and {budget.keep} of"
                f" {budget.live} are asked for; allowed: the size of images and the counts of the schedule that the model was built for, or"
                " build another with prune(..., positions=N), where N is the number of positions of these images"
            )
        mix, values = self.mixtures(seen.tokens, seen.live)
        return Decision(torch.zeros_like(seen.live), mix=mix, values=values)

    def mixtures(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weights and the values that they mix.

        Args:
            tokens: Tokens, (B,M,C).
            live: Live slots, (B,M).

        Returns:
            mix: Weights, (B,K,M), zero where `live` is False.
            values: The mixed values, (B,M,C), or None for `tokens` themselves.

        Raises:
            TypeError: The subclass does not define it.
        """
        raise TypeError(f"selector {type(self).__name__} must define mixtures(tokens, live)")


def over_live(logits: Tensor, live: Tensor) -> Tensor:
    """Return the softmax over live tokens (B,M) of logits (B,K,M)."""
    return logits.masked_fill(~live.unsqueeze(1), float("-inf")).softmax(-1)
