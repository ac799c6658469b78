"""Batches as a function of the iteration."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tokenprune.tasks.batching import BatchPlan, batches_from


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
