"""Defines the schedules `explicit` and `none`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from tokenprune.engine.rates import exact
from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "explicit")
@dataclass(frozen=True)
class Explicit(Schedule):
    """Takes any blocks with any counts, for example `keep: {3: 100, 6: 0.5}`.

    Args:
        keep: Maps a block to the tokens that stay there: a whole number is a count, a fraction is a share of N.
        rounding: How a share becomes a count: `floor`, `ceil`, `round` or `reference`, which cuts off the released codes' float.

    Raises:
        InvalidSchedule: A count or share is out of range.
    """

    keep: Mapping[int, float] = field(default_factory=dict)
    rounding: str = "floor"

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the listed blocks, each with its share of N."""
        result = []
        if not isinstance(self.keep, Mapping) or not all(str(block).isdigit() for block in self.keep):
            raise InvalidSchedule(f"keep is {self.keep!r}; allowed: {{block: count or share}}, e.g. {{3: 100, 6: 0.5}}")
        for block, keep in self.keep.items():
            if isinstance(keep, int) and not isinstance(keep, bool):
                share = Fraction(keep, layout.positions)
            else:
                share = exact(keep, f"keep[{block}]")
            if not 0 < share <= 1:
                raise InvalidSchedule(f"keep[{block}] is {keep}; allowed: 1 to {layout.positions} tokens, or a share in (0, 1]")
            result.append((int(block), share))
        return result


@register("schedule", "none")
@dataclass(frozen=True)
class NoSchedule(Schedule):
    """Drops nothing: the dense model."""
