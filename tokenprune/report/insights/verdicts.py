"""Judges differences of a few seeds: an interval around a mean difference, and a verdict by a rule that is printed with it."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenprune.report.tables.seeds import Difference

HOLDS, FAILS, UNDECIDED, MIXED = "holds", "does not hold", "undecided", "mixed"
UNDECIDABLE = "undecidable here"  # undecided, and the seeds at hand could hardly have shown an effect of the paper's size
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
    "undecidable": (
        "An undecided difference is called undecidable here where so many seeds would have shown a true difference of the paper's size"
        " with a probability (power) below 80 %, given the measured spread over seeds."
    ),
    "enough": (
        "Seeds and pictures for the paper's difference: the least number of seeds, and of validation pictures as a multiple of today's,"
        " from which the power is 80 % (pictures: an upper bound, from bootstrap errors of single rows)."
    ),
}


@lru_cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return t so that a share `level` of Student's distribution with `freedom` >= 1 degrees lies within ±t."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


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


def decided(gap: "Difference", rule: str, spread: float, able: bool) -> str:
    """Return the verdict of `judge`, which is undecidable here where several seeds decide nothing and could not have.

    Args:
        gap: First minus second, over seeds.
        rule: `better` or `as good`, see `RULES`.
        spread: See `judge`.
        able: Whether so many seeds could have shown a difference of the paper's size.
    """
    verdict = judge(gap, rule, spread)
    return UNDECIDABLE if verdict == UNDECIDED and gap.n > 1 and not able else verdict


def spread_over_seeds(values: Sequence[Mapping[int, float]]) -> float:
    """Return the standard deviation over seeds of one configuration, pooled over several; NaN with one seed each.

    Args:
        values: The value of each seed, of each configuration.
    """
    several = [variance(found.values()) for found in values if len(found) > 1]
    return math.sqrt(fmean(several)) if several else math.nan


def together(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim: mixed if some differences hold and others do not.

    It is undecided if none is decided, and undecidable here if moreover none could have been.
    """
    found = set(verdicts) - {UNDECIDED, UNDECIDABLE}
    if not found:
        return UNDECIDABLE if set(verdicts) == {UNDECIDABLE} else UNDECIDED
    if len(found) > 1:
        return MIXED
    (verdict,) = found
    open_ = verdicts.count(UNDECIDED) + verdicts.count(UNDECIDABLE)
    return f"{verdict} in part, {open_} of {len(verdicts)} undecided" if open_ else verdict
