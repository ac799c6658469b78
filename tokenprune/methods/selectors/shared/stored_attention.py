"""Defines the base of selectors that act between two blocks and read the attention of the first of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidSchedule
from tokenprune.utils.settings import one_of

SCORES = ("cls", "mean_query", "column_mean")
TRAIT = "attention_before"


def known(name: str, score: str) -> str:
    """Return `score` if it is one of SCORES; otherwise raise InvalidConfig."""
    return one_of(name, "score", score, SCORES)


def attention(seen: Observation, source: str) -> Tensor:
    """Return how much attention each slot receives in the observed block by `source`, one of SCORES, averaged over heads, (B,M)."""
    return {"cls": seen.cls_row, "mean_query": seen.mean_query, "column_mean": seen.column_mean}[source]().mean(1)


@dataclass(frozen=True)
class StoredAttention(MethodHooks):
    """Stores how much attention slots receive in blocks that a decision follows.

    Args:
        source: One of SCORES.
    """

    source: str

    def observes(self, precedes: bool) -> bool:
        """Tell whether a decision follows."""
        return precedes

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return the attention that live slots receive, (B,M), in a block that a decision follows."""
        return {TRAIT: attention(seen, self.source).detach()}


class AttentionBefore(Selector):
    """Acts between two blocks and reads how much attention each token received in the first of them.

    Args:
        context: see `Context`; a decision at block 0 is an InvalidSchedule, because no block is before it.
        source: One of SCORES.
    """

    reads_previous_block = True

    def __init__(self, context: Context, source: str) -> None:
        super().__init__(context)
        self.source = source
        if context.block < 1:
            raise InvalidSchedule(f"{self.name}: it reads the attention of the block before, and block 0 has none; set schedule.start=1")

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that stores the attention for `received`."""
        return StoredAttention(selectors[0].source)

    def received(self, seen: Observation, missing: float) -> Tensor:
        """Return the stored attention, (B,M). A fused token that came since reads `missing`."""
        return seen.trait(TRAIT, missing)

    def macs(self, slots: float) -> float:
        """Return the MACs of the attention that is read, where the block before saw as many slots as are scored."""
        return self.observed_macs(slots)

    def observed_macs(self, slots: float) -> float:
        """Return the MACs of the second pass over the logits, which the column mean needs. A single row is part of the block."""
        keys = slots if self.context.max_keys is None else min(slots, self.context.max_keys)
        return slots * keys * self.context.dim if self.source == "column_mean" else 0.0
