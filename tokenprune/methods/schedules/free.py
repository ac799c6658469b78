"""The schedule of selectors that know best themselves: it says where they decide, and not how many tokens stay."""

from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "free")
@dataclass(frozen=True)
class Free(Schedule):
    """A decision at every block from `start` on, or at the first block of each of `groups` equal groups of blocks, without a target.

    Every budget is all of the tokens, the most that a selector can keep: A-ViT, AdaViT and IA-RED2 keep as many as they find good. A
    selector that keeps what its budget says drops nothing here.
    """

    start: int = 1
    groups: int | None = None

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the blocks, each with the rate 1.

        Raises:
            InvalidSchedule: more groups than blocks, or none.
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
        """Return what is there."""
        return live

    def describe(self, layout: Layout) -> str:
        """Return where decisions are."""
        lines = [f"{layout.positions} positions, {layout.depth} blocks, {layout.prefix} prefix token(s) on top"]
        return "\n".join([*lines, *(f"block {block:2d}: keep what the selector finds good" for block, _ in self.rates(layout))])
