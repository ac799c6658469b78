"""Power of paired comparisons: against simulation and against published sample sizes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from tokenprune.report.insights.power import MOST, chance, power_of
from tokenprune.report.tables.seeds import Difference


def gap(spread: float, n: int) -> Difference:
    return Difference(0.0, spread / math.sqrt(n), n)


@pytest.mark.parametrize("effect, spread, seeds", [(1.0, 1.0, 5), (0.4, 0.5, 8), (3.0, 1.0, 3)])
def test_the_chance_is_that_of_simulated_experiments(effect, spread, seeds):
    draws = np.random.default_rng(0).normal(effect, spread, size=(20_000, seeds))
    result = ttest_1samp(draws, 0.0, axis=1)
    shown = np.mean((result.pvalue < 0.05) & (draws.mean(1) > 0))
    assert chance(effect, spread, seeds) == pytest.approx(shown, abs=0.01)


@pytest.mark.parametrize("size, seeds", [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_are_those_of_cohens_tables(size, seeds):
    """Sample sizes of a paired t-test at 5 %, two-sided, and 80 % power (Cohen 1988; G*Power gives the same)."""
    assert power_of(size, gap(1.0, 3)).seeds == seeds


@given(st.floats(0.01, 5), st.floats(0.01, 5), st.integers(2, 20))
def test_more_seeds_never_show_less(effect, spread, seeds):
    assert chance(effect, spread, seeds) <= chance(effect, spread, seeds + 1) + 1e-9
    assert chance(-effect, spread, seeds) == chance(effect, spread, seeds)  # an effect below 0 is looked for below 0


def test_pictures_are_a_multiple_of_todays():
    found = power_of(0.5, gap(0.1, 3), 1.0)
    assert found.able and found.pictures == pytest.approx(((1.959964 + 0.841621) / 0.5) ** 2, rel=1e-5)
    assert math.isnan(power_of(0.5, gap(0.1, 3)).pictures)


def test_without_an_effect_or_a_spread_there_is_nothing_to_say():
    assert power_of(0.0, gap(1.0, 3)) is None and power_of(math.nan, gap(1.0, 3)) is None
    alone = power_of(0.4, Difference(1.0, math.nan, 1), 0.8)
    assert (alone.seeds, alone.able) == (None, False) and math.isnan(alone.power)
    assert power_of(0.001, gap(5.0, 3)).seeds == MOST and power_of(0.4, gap(0.0, 3)).power == 1.0
