"""Defines the schedule `free`: it says at which blocks selectors decide, and leaves the number of tokens to them."""

from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "free")
@dataclass(frozen=True)
class Free(Schedule):
    """Decides at every block from `start` on, or at the first block of each of `groups` equal groups of blocks, without a target.

    The budget of every decision is all of the tokens. A-ViT, AdaViT and IA-RED2 keep as many of them as their own scores say. A selector
    that keeps as many tokens as its budget drops nothing here.

    Args:
        start: First block that may decide.
        groups: Number of groups of blocks; null for a decision at every block.
    """

    start: int = 1
    groups: int | None = None

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the rate 1.

        Raises:
            InvalidSchedule: `groups` is below 1 or above the number of blocks, or `start` is no block number.
        """
        stop, blocks = layout.depth - layout.revive, range(layout.depth)
        if self.groups is not None:
            if not isinstance(self.groups, int) or not 1 <= self.groups <= layout.depth:
                raise InvalidSchedule(f"groups is {self.groups!r}; allowed: null (every block), or 1 to {layout.depth}, the model's blocks")
            blocks = [number * layout.depth // self.groups for number in range(self.groups)]
        if not isinstance(self.start, int) or self.start < 0:
            raise InvalidSchedule(f"start is {self.start!r}; allowed: a block number, 0 and more")
        return [(block, Fraction(1)) for block in blocks if self.start <= block < stop]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return the number of live tokens: all may stay."""
        return live

    def describe(self, layout: Layout) -> str:
        """Return the list of blocks that decide, as text."""
        lines = [f"{layout.positions} positions, {layout.depth} blocks, {layout.prefix} prefix token(s) not counted here"]
        return "\n".join([*lines, *(f"block {block:2d}: keep what the selector finds good" for block, _ in self.rates(layout))])
