"""Defines ToMe's schedule, in which the number of merged tokens changes from block to block."""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

from tokenprune.engine.rates import sloping
from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """Removes `remove` R tokens a block on average; the number falls or rises on a line from block `start` on (ToMe's r and inflect).

    Args:
        remove: Mean number R of tokens removed at a block.
        inflect: Slope. -1 falls from 2R to 0, as published for the decreasing schedule. 0 equals `per_block` without `align`. 1 rises from
            0 to 2R.
        start: First block that decides.

    Raises:
        InvalidSchedule: `remove` or `start` is no whole number >= 0, or `inflect` is outside [-1, 1].
    """

    remove: int = 8
    inflect: float = -1.0
    start: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("remove", "start"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidSchedule(f"{name} is {value!r}; allowed: a whole number >= 0")
        if isinstance(self.inflect, bool) or not isinstance(self.inflect, Real) or not -1 <= self.inflect <= 1:
            raise InvalidSchedule(f"inflect is {self.inflect!r}; allowed: -1 (falls from twice `remove` to none) to 1 (rises to it)")

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the share that its count leaves."""
        left, result = layout.positions, []
        for block, gone in enumerate(self._counts(layout), self.start):
            left = max(left - gone, 1)
            result.append((block, Fraction(left, layout.positions)))
        return result

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return the number of live tokens less the number that this stage removes."""
        return live - self._counts(layout)[stage]

    def _counts(self, layout: Layout) -> list[int]:
        return sloping(self.remove, self.inflect, max(layout.depth - layout.revive - self.start, 0))
