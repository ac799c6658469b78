"""What selectors share that replace all tokens by a fixed number of new ones, each a mixture."""

import torch
from torch import Tensor

from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.engine.state import Decision
from tokenprune.errors import InvalidSchedule


class MixingSelector(Selector):
    """Base of selectors with one learned output, query or slot for each new token: their number K is part of the weights.

    Prefix tokens take no part: they are neither mixed nor mixed in.
    """

    mixing = True
    learns = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.count = context.budget.keep  # K

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return `mixtures` of the live slots.

        Raises:
            InvalidSchedule: another number of new tokens is asked for than the weights have.
        """
        if budget.keep != self.count:
            built = self.context.budget
            raise InvalidSchedule(
                f"{self.name}: the weights at block {built.block} make {self.count} tokens of {built.live}, and {budget.keep} of"
                f" {budget.live} are asked for; allowed: the size of images and the counts of the schedule that the model was built for, or"
                " build another with prune(..., positions=N), N positions being what these images have"
            )
        mix, values = self.mixtures(seen.tokens, seen.live)
        return Decision(torch.zeros_like(seen.live), mix=mix, values=values)

    def mixtures(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return weights (B,K,M), zero where `live` (B,M) is False, and what is mixed, (B,M,C): None for `tokens` (B,M,C) themselves."""
        raise TypeError(f"selector {type(self).__name__} must define mixtures(tokens, live)")


def over_live(logits: Tensor, live: Tensor) -> Tensor:
    """Return the softmax over live tokens of logits (B,K,M)."""
    return logits.masked_fill(~live.unsqueeze(1), float("-inf")).softmax(-1)
