"""Judges differences of a few seeds: an interval around a mean difference, and a verdict by a rule that is printed with it."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenprune.report.tables.seeds import Difference

HOLDS, FAILS, UNDECIDED, MIXED = "holds", "does not hold", "undecided", "mixed"
LEVEL = 0.95
LEAST = 1.0  # least AP of a side that has learnt to detect
RULES = {
    "better": (
        "A difference holds if its 95 % interval (mean ± t(n-1) standard errors over n seeds, differences paired by seed) lies above 0,"
        " does not hold if it lies below 0, and is undecided otherwise, with fewer than 2 seeds, or where neither side reaches an AP of"
        f" {LEAST:g}."
    ),
    "as good": (
        "For `as good as` it holds if the mean difference is not below minus the spread (the standard deviation over seeds of one"
        " configuration, pooled over the two), does not hold if it is and the whole interval lies below 0, and is undecided otherwise and"
        " in the same cases: a wide spread makes this easy to hold, so read it with the spread."
    ),
}


@lru_cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return t so that a share `level` of Student's distribution with `freedom` >= 1 degrees lies within ±t, to four digits.

    The density is integrated in u = atan(x / sqrt(freedom)), in which its tails are short.
    """
    u = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(u) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * math.tan(np.interp(level, share / share[-1], u)))


def interval(gap: "Difference") -> tuple[float, float]:
    """Return the ends of the interval of `LEVEL` around a mean difference. They are infinite for one seed."""
    if gap.n < 2:
        return -math.inf, math.inf
    half = t_quantile(gap.n - 1) * gap.error
    return gap.mean - half, gap.mean + half


def judge(gap: "Difference", rule: str, spread: float) -> str:
    """Return the verdict: holds, does not hold or undecided.

    Args:
        gap: First minus second, over seeds.
        rule: `better` or `as good`, see `RULES`.
        spread: Standard deviation over seeds of one configuration; `as good` allows the mean to be lower by this much.
    """
    low, high = interval(gap)
    if gap.n < 2:
        return UNDECIDED
    if rule == "as good":
        return HOLDS if gap.mean >= -spread else FAILS if high < 0 else UNDECIDED
    return HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED


def together(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim: mixed if some differences hold and others do not, undecided if none is decided."""
    found = set(verdicts) - {UNDECIDED}
    if not found:
        return UNDECIDED
    if len(found) > 1:
        return MIXED
    (verdict,) = found
    open_ = verdicts.count(UNDECIDED)
    return f"{verdict} in part, {open_} of {len(verdicts)} undecided" if open_ else verdict
