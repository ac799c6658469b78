"""Defines the schedule that removes a share of the tokens that are there, with PiToMe's and ToFu's rounding."""

import math
from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.rates import exact
from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "shrink")
@dataclass(frozen=True)
class Shrink(Schedule):
    """Removes floor(T - T * keep_rate) of the T tokens that are there, at every block from `start` on or at the listed `blocks`.

    Args:
        keep_rate: Share of the current tokens that stays.
        start: First block that decides, where no blocks are listed.
        blocks: Blocks that decide; null for every block from `start` on.
        prefix: Whether T counts prefix tokens, too, which are never removed: ToFu's T does, PiToMe's and MCTF's does not.
        rounding: How the removed share becomes a count: `floor`, `ceil`, `round` or `reference`, which cuts off the released codes' float.

    Raises:
        InvalidSchedule: `start` is no block number, or a count leaves no token.
    """

    keep_rate: float = 0.9
    start: int = 0
    blocks: tuple[int, ...] | None = None
    prefix: bool = False
    rounding: str = "floor"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blocks", None if self.blocks is None else tuple(self.blocks))
        if isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 0:
            raise InvalidSchedule(f"start is {self.start!r}; allowed: a block number, 0 and more")

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the share of N that its count leaves."""
        if exact(self.keep_rate, "keep_rate") == 1:
            return []
        live, result = layout.positions, []
        for block in range(self.start, layout.depth - layout.revive) if self.blocks is None else self.blocks:
            left = max(self._left(live, layout), 1)
            result.append((block, Fraction(left, layout.positions)))
            live = left + layout.extra * (left < live)
        return result

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return how many of the `live` tokens stay."""
        return self._left(live, layout)

    def _left(self, live: int, layout: Layout) -> int:
        tokens = live + layout.prefix * self.prefix
        gone = self._round(tokens - exact(self.keep_rate, "keep_rate") * tokens, math.floor(tokens - tokens * self.keep_rate))
        return live - gone
