"""Paired comparisons of classifiers, against formulas by hand and against scipy where it is there."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.measure.paired import agreement, compared, holm, mcnemar


def test_a_comparison_by_hand():
    """Of ten images the first has 7 right and the second 4; 4 are right for the first alone, 1 for the second alone."""
    first = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).bool()
    second = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1, 0, 0]).bool()
    found = compared(first, second)
    assert (found.images, found.first_only, found.second_only) == (10, 4, 1)
    gaps = first.double() - second.double()
    assert found.difference == pytest.approx(30) == pytest.approx(100 * gaps.mean().item())
    assert found.error == pytest.approx(100 * gaps.std(correction=0).item() / math.sqrt(10))
    assert found.interval == pytest.approx((30 - 1.96 * found.error, 30 + 1.96 * found.error))
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (2, 9), (9, 2), (0, 12)])
def test_the_exact_test_counts_all_ways_in_which_coins_fall(first, second):
    n = first + second
    falls = [sum(fall) for fall in product((0, 1), repeat=n)]
    uneven = sum(min(heads, n - heads) <= min(first, second) for heads in falls) / 2**n
    assert mcnemar(first, second) == pytest.approx(uneven)


def test_many_images_do_not_overflow():
    assert mcnemar(25000, 25000) == pytest.approx(1)
    assert 0 < mcnemar(1000, 1200) < 1e-4
    normal = math.erfc((abs(1000 - 1100) - 1) / math.sqrt(2100) / math.sqrt(2))
    assert mcnemar(1000, 1100) == pytest.approx(normal, rel=0.01)


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1]) and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_correction_never_makes_a_finding_surer(values):
    corrected = holm(values)
    assert all(0 <= p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_other_way_round_is_the_negative(pairs):
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    one, other = compared(first, second), compared(second, first)
    assert one.difference == pytest.approx(-other.difference) and one.p == other.p and one.error == pytest.approx(other.error)
    assert (
        agreement(first, second) == agreement(second, first) == pytest.approx(100 - 100 * (one.first_only + one.second_only) / len(pairs))
    )
