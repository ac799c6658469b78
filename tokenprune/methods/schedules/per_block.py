"""Defines the schedule `per_block`."""

from dataclasses import dataclass, replace
from fractions import Fraction

from tokenprune.engine.rates import ramped
from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "per_block")
@dataclass(frozen=True)
class PerBlock(Schedule):
    """Removes `remove` R tokens at every block from `start` up to `stop` (Cropr and ToMe).

    Args:
        remove: Number R of tokens removed at a block.
        start: First block that decides.
        stop: First block that no longer decides; null for all that the treatment allows.
        align: With a CLS token, remove one more at the first decision, so that all later sequence lengths are multiples of 8 (Cropr 3.5).
        step: Number of blocks from one decision to the next.
        ramp: Number of epochs of the training; above 0, R rises in the first half of them (`ramped`).

    Raises:
        InvalidSchedule: `remove`, `step` or `ramp` is no whole number in its range.
    """

    remove: int = 8
    start: int = 1
    stop: int | None = None
    align: bool = True
    step: int = 1
    ramp: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("remove", 0), ("step", 1), ("ramp", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise InvalidSchedule(f"{name} is {getattr(self, name)!r}; allowed: a whole number >= {least}")

    def at(self, progress: float) -> Schedule:
        """Return the schedule with the R of the current epoch."""
        now = ramped(self.remove, progress, self.ramp)
        return self if now == self.remove else replace(self, remove=now, ramp=0)

    def budgets(self, layout: Layout) -> tuple[Budget, ...]:
        """Return the budgets; counts follow by subtraction."""
        stop = layout.depth - layout.revive if self.stop is None else self.stop
        return super().budgets(layout) if self.remove and self.start < stop else ()

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the share that its count leaves."""
        stop = layout.depth - layout.revive if self.stop is None else self.stop
        first = self.remove + (1 if self.align and layout.prefix else 0)
        left = [max(layout.positions - first - i * self.remove, 1) for i in range(stop - self.start)]
        return [(block, Fraction(n, layout.positions)) for block, n in zip(range(self.start, stop, self.step), left, strict=False)]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return live - R, or live - R - 1 at the first decision if there is a CLS token to align."""
        return live - self.remove - (1 if stage == 0 and self.align and layout.prefix else 0)
