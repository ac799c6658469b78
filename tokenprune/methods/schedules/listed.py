"""Defines the schedule `listed`: it names the blocks at which selectors decide, and leaves the number of tokens to them."""

from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.registry import register


@register("schedule", "listed")
@dataclass(frozen=True)
class Listed(Schedule):
    """Decides at the listed blocks without a target (ALGM).

    The budget of every decision is all of the tokens. A selector that keeps as many tokens as its budget drops nothing here.

    Args:
        blocks: Blocks that decide, counted from 0.
    """

    blocks: tuple[int, ...] = (0, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blocks", tuple(self.blocks))

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the listed blocks, each with the rate 1."""
        return [(block, Fraction(1)) for block in self.blocks]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return the number of live tokens: all may stay."""
        return live
