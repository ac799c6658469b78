"""Batches as a function of the iteration."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.tasks.batching import BatchPlan, batches_from, in_order, seeded


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_an_epoch_shows_every_sample_once_and_order_follows_the_seed(size, batch, seed, grouped):
    ratios = [0.5 + (i % 3) for i in range(size)] if grouped else None
    plan = BatchPlan(size, batch, seed, ratios)
    batches = [plan[i] for i in range(2 * plan.per_epoch)]
    assert all(len(b) == batch for b in batches)
    first = [i for b in batches[: plan.per_epoch] for i in b]
    if size >= batch:
        assert len(set(first)) == len(first) == size // batch * batch
    else:
        assert set(first) == set(range(size))
    again = BatchPlan(size, batch, seed, ratios)
    assert [again[i] for i in reversed(range(2 * plan.per_epoch))] == batches[::-1]


def test_groups_mix_in_one_batch_at_most():
    ratios = [0.5] * 13 + [2.0] * 19
    plan = BatchPlan(32, 4, 0, ratios)
    mixed = [b for b in (plan[i] for i in range(8)) if len({ratios[i] for i in b}) > 1]
    assert len(mixed) == 1


def test_epochs_differ_and_seeds_differ():
    plan = BatchPlan(40, 4, 0)
    assert [plan[i] for i in range(10)] != [plan[i] for i in range(10, 20)] != [BatchPlan(40, 4, 1)[i] for i in range(10, 20)]


def pair(index, place):
    return index, place


def test_starting_later_and_working_in_other_processes_changes_nothing():
    def plan():
        return BatchPlan(10, 3, 0)

    whole = list(islice(batches_from(plan(), pair, list, 0), 9))
    assert list(islice(batches_from(plan(), pair, list, 4), 5)) == whole[4:]
    assert list(islice(batches_from(plan(), pair, list, 4, workers=1), 5)) == whole[4:]
    assert [place for _, place in whole[4]] == [12, 13, 14]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(2, 4), st.integers(0, 3))
def test_repeats_fill_a_batch_with_copies_of_fewer_images(size, batch, repeats, seed):
    plan = BatchPlan(size, batch, seed, repeats=repeats)
    different = -(-batch // repeats)
    for i in range(2 * plan.per_epoch):
        assert plan[i] == (plan[i][:different] * repeats)[:batch]
    if size >= batch:
        shown = [n for i in range(plan.per_epoch) for n in plan[i][:different]]
        assert len(set(shown)) == len(shown) == plan.per_epoch * different  # and no image in two batches of an epoch
    assert plan.per_epoch == BatchPlan(size, batch, seed).per_epoch


@given(st.integers(0, 30), st.integers(1, 7))
def test_samples_in_order_come_once_each_and_end(count, batch):
    assert [len(b) for b in in_order(count, lambda i: i, list, batch)] == [min(batch, count - s) for s in range(0, count, batch)]
    assert [i for b in in_order(count, lambda i: i, list, batch) for i in b] == list(range(count))


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeded_noise_is_a_function_of_the_entropy_and_leaves_no_trace():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    outside = [draws(), draws()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draws()
    with pytest.raises(KeyError), seeded(3, 4):
        inside = draws()
        raise KeyError
    assert [first, draws()] == outside
    with seeded(3, 4):
        assert draws() == inside
    for other in ((4, 3), (3, 5), (3, 4, 1)):
        with seeded(*other):
            assert not set(draws()) & set(inside)
