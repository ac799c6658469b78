"""Shares: exact, and how they fall in training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.rates import share, shrinking
from tokenprune.errors import InvalidSchedule


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1.0), (9, 1.0), (10, 1.0), (35, 0.9561), (60, 0.85), (85, 0.7439), (109, 0.7001), (110, 0.7), (300, 0.7)]
)
def test_evits_curriculum(epoch, rate):
    """Start 10, span 100 of 300 epochs, as the released code computes it."""
    assert shrinking(0.7, epoch / 300, 10 / 300, 110 / 300) == pytest.approx(rate, abs=5e-5)


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_never_rises_and_stays_between_its_ends(rate, a, b, early, late):
    start, end = sorted((a, b))
    first, second = (shrinking(rate, progress, start, end) for progress in sorted((early, late)))
    assert 1 >= first >= second - 1e-12 and second >= rate - 1e-12
    assert shrinking(rate, 1.0, start, end) == rate


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", float("nan")])
def test_a_share_of_training_is_between_0_and_1(value):
    with pytest.raises(InvalidSchedule, match="shrink_start is"):
        share(value, "shrink_start")
