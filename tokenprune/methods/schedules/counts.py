"""Defines the schedule of two lists, one count a block to prune to and one to merge to (DiffRate)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register

_HALVINGS = 60  # of the interval in which an exponent is looked for


@register("schedule", "counts")
@dataclass(frozen=True)
class Counts(Schedule):
    """Prunes to one count and then merges to another, in every block, each from a list with a number for each block (DiffRate).

    After block i min(T, prune_i, merge_i) of T tokens are left. A count above the number of tokens does nothing. A model of another depth
    reads each list at the same relative depth, and a grid of another size takes the same share.

    Args:
        prune: Tokens that are left after pruning, one number a block.
        merge: Tokens that are left after merging, one number a block; null for the numbers of `prune`, so that nothing is merged.
        prefix: Whether the numbers count prefix tokens, too; those of DiffRate count the class token.
        positions: N of the images that the lists were made for.
        keep_rate: Mean share of N that is left over all blocks; null for the lists as they are. Another share s of a list becomes s^p, with
            one p for both lists, so that they keep their shape. The paper learns lists for each budget instead.
        rounding: How a share becomes a count: `floor`, `ceil` or `round`.

    Raises:
        InvalidSchedule: A list is no list of whole numbers >= 1, or the lists differ in length.
    """

    prune: tuple[int, ...] = ()
    merge: tuple[int, ...] | None = None
    prefix: bool = True
    positions: int = 196
    keep_rate: float | None = None
    rounding: str = "floor"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, numbers in (("prune", self.prune), ("merge", self._merged)):
            whole = not isinstance(numbers, str) and isinstance(numbers, Sequence) and all(map(_is_count, numbers))
            if not whole:
                raise InvalidSchedule(f"{name} is {numbers!r}; allowed: a list of whole numbers >= 1, one a block, e.g. [197, 150, 100]")
        object.__setattr__(self, "prune", tuple(self.prune))
        object.__setattr__(self, "merge", None if self.merge is None else tuple(self.merge))
        if len(self.prune) != len(self._merged):
            raise InvalidSchedule(f"prune has {len(self.prune)} numbers and merge has {len(self._merged)}; allowed: one a block in each")

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the blocks at which a number is below the tokens that are there, each with the share of N that is left."""
        live, result = layout.positions, []
        for block, counts in enumerate(_left(self, layout)[: layout.depth - layout.revive]):
            left = min(counts)
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
        return min(max(_left(self, layout)[block][0], keep), live)

    @property
    def _merged(self) -> tuple[int, ...]:
        return self.prune if self.merge is None else self.merge

    def _share(self, number: int, counted: bool) -> Fraction:
        """Return the share of N that a number of a list means, at most 1."""
        return min(Fraction(max(number - int(self.prefix and counted), 0), self.positions), Fraction(1))


@lru_cache(maxsize=64)
def _left(schedule: Counts, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Return, for each block, the patch tokens that pruning and then merging leave, at least 1; () without lists."""
    lists = [[schedule._share(number, layout.prefix > 0) for number in numbers] for numbers in (schedule.prune, schedule._merged)]
    if schedule.keep_rate is not None and schedule.prune:
        power = _exponent(tuple(map(min, *lists)), schedule.keep_rate)
        lists = [[Fraction(float(share) ** power) for share in shares] for shares in lists]
    found = [[max(schedule._round(s * layout.positions, float(s) * layout.positions), 1) for s in shares] for shares in lists]
    places = [block * len(schedule.prune) // layout.depth for block in range(layout.depth)] if schedule.prune else []
    return tuple((found[0][place], found[1][place]) for place in places)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


@lru_cache(maxsize=64)
def _exponent(shares: tuple[Fraction, ...], mean: float) -> float:
    """Return p >= 0 for which the mean of shares^p is nearest to `mean`."""
    low, high = 0.0, 64.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = sum(float(share) ** middle for share in shares) / len(shares) > mean
        low, high = (middle, high) if above else (low, middle)
    return low  # 0 for a mean of 1
