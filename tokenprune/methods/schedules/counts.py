"""Defines the schedule of two lists, one count a block to prune to and one to merge to (DiffRate)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "counts")
@dataclass(frozen=True)
class Counts(Schedule):
    """Prunes to one count and then merges to another, in every block, each from a list with a number for each block (DiffRate).

    After block i min(T, prune_i, merge_i) of T tokens are left. A count above the number of tokens does nothing. A model of another depth
    reads each list at the same relative depth, and a grid of another size takes the same share.

    Args:
        prune: Tokens that are left after pruning, one number a block.
        merge: Tokens that are left after merging, one number a block; null for no merging.
        prefix: Whether the numbers count prefix tokens, too; those of DiffRate count the class token.
        positions: N of the images that the lists were made for.

    Raises:
        InvalidSchedule: A list is no list of whole numbers >= 1, or the lists differ in length.
    """

    prune: tuple[int, ...] = ()
    merge: tuple[int, ...] | None = None
    prefix: bool = True
    positions: int = 196

    def __post_init__(self) -> None:
        super().__post_init__()
        lists = [("prune", self.prune), ("merge", self.prune if self.merge is None else self.merge)]
        for name, numbers in lists:
            whole = isinstance(numbers, Sequence) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers)
            if not whole or isinstance(numbers, str):
                raise InvalidSchedule(f"{name} is {numbers!r}; allowed: a list of whole numbers >= 1, one a block, e.g. [197, 150, 100]")
            object.__setattr__(self, name, tuple(numbers))
        if self.merge is not None and len(self.prune) != len(self.merge):
            raise InvalidSchedule(f"prune has {len(self.prune)} numbers and merge has {len(self.merge)}; allowed: one a block in each")

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the blocks at which a number is below the tokens that are there, each with the share of N that is left."""
        live, result = layout.positions, []
        for block in range(layout.depth - layout.revive if self.prune else 0):
            left = min(self._at(self.prune, block, layout), self._at(self._merged, block, layout))
            if left < live:
                result.append((block, Fraction(left, layout.positions)))
                live = left + layout.extra
        return result

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return how many tokens are left after both actions."""
        return int(rate * layout.positions)

    def between(self, stage: int, keep: int, live: int, layout: Layout) -> int:
        """Return how many tokens pruning leaves."""
        block = self.rates(layout)[stage][0]
        return min(max(self._at(self.prune, block, layout), keep), live)

    @property
    def _merged(self) -> tuple[int, ...]:
        return self.prune if self.merge is None else self.merge

    def _at(self, numbers: Sequence[int], block: int, layout: Layout) -> int:
        """Return the patch tokens that a list leaves at a block, at least 1."""
        number = numbers[block * len(numbers) // layout.depth] - int(self.prefix and layout.prefix > 0)
        return max(number * layout.positions // self.positions, 1)
