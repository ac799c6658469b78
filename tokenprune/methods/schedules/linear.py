"""ToMe's schedule of a changing number of merged tokens."""

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
    """`remove` tokens a block in the mean, the number falling or rising on a line from block `start` on (ToMe's pair r, inflect).

    inflect -1, as published for the decreasing schedule, falls from 2R to 0; 0 is `per_block` without `align`; 1 rises to 2R.

    Raises:
        InvalidSchedule: a count that is no whole number, or an inflect outside [-1, 1].
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
        """Return the blocks; the share follows from the counts."""
        left, result = layout.positions, []
        for block, gone in enumerate(self._counts(layout), self.start):
            left = max(left - gone, 1)
            result.append((block, Fraction(left, layout.positions)))
        return result

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return what is there less the stage's number."""
        return live - self._counts(layout)[stage]

    def _counts(self, layout: Layout) -> list[int]:
        return sloping(self.remove, self.inflect, max(layout.depth - layout.revive - self.start, 0))
