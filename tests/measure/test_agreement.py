"""Agreement of selectors against values worked out by hand."""

import math

import pytest
import torch

from tokenprune.measure.agreement import chance, overlap, rank_correlation, usage_correlation


def kept(*blocks: str) -> torch.Tensor:
    return torch.tensor([[cell == "x" for cell in block] for block in blocks])


FIRST = kept("xxxx", "xx..", "x...")
SECOND = kept("xxxx", ".xx.", "xxx.")


def test_overlap_is_intersection_over_union_of_blocks_that_prune():
    values = overlap(FIRST, SECOND).tolist()
    assert math.isnan(values[0]) and values[1:] == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert overlap(FIRST, FIRST).tolist()[1:] == [1, 1]
    assert math.isnan(float(overlap(kept("...."), kept("...."))[0])) and float(overlap(kept("xxxx"), kept("x..."))[0]) == 0.25


def test_chance_is_what_random_sets_of_these_sizes_share():
    values = chance(FIRST, SECOND).tolist()
    # 2 and 2 of 4: 1 shared of 3; 1 and 3 of 4: 3/4 shared of 13/4
    assert values[1:] == [pytest.approx(1 / 3), pytest.approx(3 / 13)]


def test_chance_is_the_mean_over_drawn_sets():
    torch.manual_seed(0)

    def draw(k):
        return torch.rand(4000, 1, 40).argsort(-1).argsort(-1) < k

    drawn = overlap(draw(10), draw(30)).mean()
    expected = chance(kept("x" * 10 + "." * 30), kept("x" * 30 + "." * 10))[0]
    assert float(drawn) == pytest.approx(float(expected), abs=0.01)


def test_rank_correlation_by_hand():
    # ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15)
    matrix = rank_correlation([torch.tensor([0.1, 0.2, 5.0, 60.0]), torch.tensor([2, 1, 4, 3]), torch.tensor([4, 3, 2, 1])])
    assert matrix[0, 1] == pytest.approx(0.6) and matrix[0, 2] == pytest.approx(-1.0) and matrix[1, 1] == pytest.approx(1.0)


def test_ties_share_a_rank_and_equal_scores_have_no_correlation():
    # usage 3 2 1 1 has ranks 4 3 1.5 1.5, usage 2 3 3 1 has ranks 2 3.5 3.5 1: their deviations
    # from 2.5, (1.5 .5 -1 -1) and (-.5 1 1 -1.5), have the products -.75 + .5 - 1 + 1.5 = .25 and the squares 4.5 each
    matrix = usage_correlation([FIRST, SECOND, kept("xxxx", "xxxx", "xxxx")])
    assert matrix[0, 1] == pytest.approx(0.25 / 4.5)
    assert math.isnan(matrix[0, 2])
