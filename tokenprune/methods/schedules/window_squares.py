"""Defines a schedule that keeps a square number of tokens, which whole windows can still divide."""

import math
from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "window_squares")
@dataclass(frozen=True)
class WindowSquares(Schedule):
    """Keeps (S - i * step)^2 of S x S positions at the i-th of `blocks` (Cropr's schedule for detection, section 4.3).

    The paper prunes after blocks 5, 8, 11, 14 and 20, which it numbers from 1. These are the places before blocks 5, 8, 11, 14 and 20 here.
    With 96 x 96 positions and a step of 16, the side of a window, 6400, 4096, 2304, 1024 and 256 tokens stay.

    Args:
        blocks: Blocks that decide, counted from 0.
        step: Number of positions by which the side of the square shrinks at each decision.

    Raises:
        InvalidSchedule: `step` is no whole number >= 1.
    """

    blocks: tuple[int, ...] = (5, 8, 11, 14, 20)
    step: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 1:
            raise InvalidSchedule(f"step is {self.step!r}; allowed: a whole number of positions >= 1, e.g. the side of a window")

    def budgets(self, layout: Layout) -> tuple[Budget, ...]:
        """Return the budgets, whose counts are squares.

        Raises:
            InvalidSchedule: The number of positions is no square, or there are more steps than its side allows; see `Schedule`.
        """
        side = math.isqrt(layout.positions)
        if side * side != layout.positions:
            raise InvalidSchedule(f"window_squares: {layout.positions} positions are no square; allowed: square images, e.g. padded ones")
        if len(self.blocks) * self.step >= side:
            most = (side - 1) // self.step
            raise InvalidSchedule(
                f"window_squares: {len(self.blocks)} steps of {self.step} leave nothing of a side of {side}; allowed: {most} blocks, or a"
                " smaller step"
            )
        return super().budgets(layout)

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the share that stays."""
        side = math.isqrt(layout.positions)
        return [(block, Fraction((side - i * self.step) ** 2, layout.positions)) for i, block in enumerate(self.blocks, 1)]
