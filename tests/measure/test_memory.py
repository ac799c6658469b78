"""Peak memory of calls whose allocations are known."""

import torch

from tokenprune.measure.memory import peak_memory


def test_it_is_the_most_that_is_held_at_a_time():
    def three_then_one():
        a = torch.ones(3, 1000)
        del a
        return torch.ones(1000)

    assert peak_memory(three_then_one) == 12000


def test_what_was_there_before_does_not_count():
    kept = torch.ones(50_000)
    assert peak_memory(lambda: kept.sum()) < 1000 < peak_memory(lambda: kept + 1)
