"""Says what a comparison over seeds could have shown: its power for an effect of the paper's size, and what it would take."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.report.insights.verdicts import LEVEL

if TYPE_CHECKING:
    from tokenprune.report.tables.seeds import Difference

ENOUGH = 0.8  # power from which a comparison counts as able to show an effect
MOST = 1000  # seeds beyond which nobody counts


@dataclass(frozen=True)
class Power:
    """Holds what a paired comparison could show of a difference of a given size.

    Attributes:
        effect: The difference to show, in points: the paper's.
        power: Probability that the interval at this number of seeds lies on the effect's side of 0, if the true difference is the effect
            and differences of single seeds spread as measured. NaN with one seed.
        seeds: Least number of seeds with a power of 80 %; `MOST` if even that many are too few. None with one seed.
        pictures: Validation pictures, as a multiple of today's, from which 80 % hold over pictures as well: normal intervals of the
            difference of two rows. The rows saw the same pictures and their errors are combined as if they had not, so that it is an upper
            bound. NaN without standard errors.
    """

    effect: float
    power: float
    seeds: int | None
    pictures: float

    @property
    def able(self) -> bool:
        """Tell whether the comparison could have shown the effect."""
        return self.power >= ENOUGH


def power_of(effect: float, gap: "Difference", error_over_pictures: float = math.nan) -> Power | None:
    """Return what a comparison over seeds could show of `effect`; None if there is no effect to show (it is 0 or NaN).

    Args:
        effect: The true difference that is asked for, in points.
        gap: The measured differences, whose spread over seeds is taken for the true one.
        error_over_pictures: Standard error of a difference over validation pictures, in points.
    """
    if math.isnan(effect) or effect == 0:
        return None
    pictures = (_both_normal() * error_over_pictures / effect) ** 2
    if gap.n < 2:
        return Power(effect, math.nan, None, pictures)
    spread = gap.error * math.sqrt(gap.n)
    return Power(effect, chance(effect, spread, gap.n), _least(effect, spread), pictures)


def chance(effect: float, spread: float, seeds: int) -> float:
    """Return the power of the paired t-test at a level of 95 %, two-sided, for finding the effect on its own side of 0.

    Args:
        effect: True mean difference.
        spread: Standard deviation of the difference of one seed.
        seeds: Number n >= 2 of seeds.
    """
    from scipy.stats import nct, t

    if spread == 0:
        return 1.0
    bound = t.ppf((1 + LEVEL) / 2, seeds - 1)
    return float(nct.sf(bound, seeds - 1, abs(effect) / spread * math.sqrt(seeds)))


def _least(effect: float, spread: float) -> int:
    few, many = 2, MOST
    if chance(effect, spread, many) < ENOUGH:
        return MOST
    while few < many:  # power grows with the number of seeds
        middle = (few + many) // 2
        few, many = (few, middle) if chance(effect, spread, middle) >= ENOUGH else (middle + 1, many)
    return few


def _both_normal() -> float:
    """Return how many standard errors away from 0 a difference must lie for the wanted power: 1.96 + 0.84."""
    from scipy.stats import norm

    return float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(ENOUGH))
