"""Models compared over resamples of the same pictures: against a paired bootstrap by hand."""

import math

import numpy as np
import pytest
import torch

from tokenprune.measure.resamples import Resampled, compared, draws_of, mean_of


def test_the_error_of_a_mean_is_that_of_its_paired_differences():
    """The metric is a mean over pictures, whose paired error is known: s / sqrt(n)."""
    rng = np.random.default_rng(0)
    hard = rng.normal(50, 20, 400)
    one, other = hard + rng.normal(1, 3, 400), hard + rng.normal(0, 3, 400)
    counts = rng.multinomial(400, np.full(400, 1 / 400), size=2000)
    first, second = (torch.from_numpy(counts @ scores / 400) for scores in (one, other))
    pair = compared(one.mean() - other.mean(), first, second)
    gaps = one - other
    assert pair.error == pytest.approx(gaps.std() / 20, rel=0.06) and pair.difference == pytest.approx(gaps.mean())
    alone = math.hypot(first.std().item(), second.std().item())
    assert pair.error < alone / 3  # the pictures' difficulty, which both share, is gone


def test_interval_and_p_value():
    pair = compared(2.0, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    assert pair.error == 1.0 and pair.interval == pytest.approx((0.04, 3.96))
    assert pair.p == pytest.approx(0.0455, abs=1e-4)  # two standard errors


def test_resamples_without_a_metric_are_left_out_and_two_are_needed():
    nan = math.nan
    pair = compared(1.0, torch.tensor([1.0, 3.0, nan, 5.0]), torch.tensor([0.0, 0.0, 0.0, nan]))
    assert pair.error == pytest.approx(math.sqrt(2))
    alone = compared(1.0, torch.tensor([1.0, nan]), torch.tensor([0.0, 0.0]))
    assert alone.error == math.inf and alone.p == 1.0 and alone.interval == (-math.inf, math.inf)


def test_equal_models_differ_in_nothing():
    values = torch.tensor([1.0, 2.0])
    assert (compared(0.0, values, values).p, compared(0.5, values, values - 0.5).p) == (1.0, 0.0)


def test_resamples_survive_a_file_and_are_averaged_over_draws_of_gates():
    one = Resampled({"ap_box": torch.tensor([1.0, 3.0]).double()}, 7, draws_of(b"labels", b"draws"))
    again = Resampled.of_tensors(one.tensors)
    assert again.values["ap_box"].tolist() == [1.0, 3.0] and (again.pictures, again.draws) == (7, one.draws)
    mean = mean_of([one, Resampled({"ap_box": torch.tensor([3.0, 5.0]).double()}, 7, one.draws)])
    assert mean.values["ap_box"].tolist() == [2.0, 4.0] and (mean.pictures, mean.draws) == (7, one.draws)


def test_other_labels_or_draws_have_another_number():
    numbers = {draws_of(b"labels", b"draws"), draws_of(b"label", b"sdraws"), draws_of(b"labels", b"draw"), draws_of(b"labels")}
    assert len(numbers) == 4 and all(0 <= number < 2**63 for number in numbers)
