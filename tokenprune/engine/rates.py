"""Kept shares as exact rationals, and how they change while a model trains."""

import math
from fractions import Fraction
from numbers import Real

from tokenprune.errors import InvalidSchedule

ROUNDINGS = ("floor", "ceil", "round", "reference")


def exact(value: object, name: str) -> Fraction:
    """Turn 0.7 into 7/10, so that 0.7**2 * 4200 is 2058 and not 2057; must be in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real | Fraction):
        raise InvalidSchedule(f"{name} is {value!r}; a number in (0, 1] is needed, e.g. 0.7 (the kept fraction)")
    rate = value if isinstance(value, Fraction) else Fraction(str(value)) if math.isfinite(value) else Fraction(-1)
    if not 0 < rate <= 1:
        raise InvalidSchedule(f"{name} is {value}; allowed is 0 < {name} <= 1 (the kept fraction, 1 keeps every token)")
    return rate


def rounded(value: Fraction, rounding: str, approximate: float) -> int:
    """Round a count as `rounding` says; `reference` cuts off the floating-point number that the released codes compute."""
    if rounding == "reference":
        return int(approximate)
    return {"floor": math.floor, "ceil": math.ceil, "round": round}[rounding](value)


def matched(base: Fraction, start: int, depth: int, positions: int) -> Fraction:
    """Return the rate from block `start` on whose mean use over all blocks is that of three stages at `base`; at least one token's."""
    use = Fraction(depth, 4) * (1 + base + base**2 + base**3)
    return max((use - start) / (depth - start), Fraction(1, positions))


def shrinking(rate: float, progress: float, start: float, end: float) -> float:
    """Return the rate after a share `progress` of training: 1 up to `start`, `rate` from `end` on, half a cosine between (EViT)."""
    if progress >= end:
        return rate
    if progress <= start:
        return 1.0
    return rate + (1 - rate) * 0.5 * (1 + math.cos(math.pi * (progress - start) / (end - start)))


def share(value: object, name: str) -> float:
    """Return a share of training, which must be in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InvalidSchedule(f"{name} is {value!r}; allowed is a share of training, 0 <= {name} <= 1")
    return float(value)


def ramped(remove: int, progress: float, epochs: int) -> int:
    """Return Cropr's curriculum over R after a share `progress` of `epochs` epochs (0: none): from 0 to R in the first half.

    As released, in whole numbers cut off, the same all through an epoch; the paper says that it begins at 1.
    """
    half, epoch = epochs // 2, math.floor(progress * epochs + 1e-9)
    return remove if epoch >= half else remove * epoch // max(half - 1, 1)


def sloping(remove: int, inflect: float, blocks: int) -> list[int]:
    """Return ToMe's counts of `blocks` blocks on a line through their mean R = `remove`, cut off to whole numbers.

    `inflect` is (last - first) / (first + last): -1 falls from 2R to 0, 0 is R throughout, 1 rises from 0 to 2R.
    """
    first = math.floor(remove * (1 - Fraction(str(inflect))))
    step = Fraction(2 * (remove - first), max(blocks - 1, 1))
    return [math.floor(first + block * step) for block in range(blocks)]
