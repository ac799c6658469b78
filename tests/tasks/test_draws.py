"""Judging over several draws of the gates: the mean, the spread, and the draw that stays."""

from statistics import stdev
from types import SimpleNamespace

import pytest

from tokenprune.tasks.draws import over_draws


class Gate(SimpleNamespace):
    """A selector of which only the number of its draw counts."""

    def redraw(self, number):
        self.number = number


@pytest.mark.parametrize("draws", [1, 3])
def test_the_mean_over_draws_of_which_the_last_is_the_selectors_own(draws):
    gates = [Gate(draws=True, number=0), Gate(draws=True, number=0)]
    scores = {1: 70.0, 2: 73.0, 0: 76.0}
    seen = []

    def judged():
        assert gates[0].number == gates[1].number
        seen.append(gates[0].number)
        return {"top1": scores[gates[0].number], "top1_se": 1.0}

    found = over_draws(gates, draws, judged, ["top1"])
    assert seen == [*range(1, draws), 0]
    if draws == 1:
        assert found == {"top1": 76.0, "top1_se": 1.0}
    else:
        assert found == {"top1": 73.0, "top1_se": 1.0, "top1_spread": pytest.approx(stdev([70, 73, 76]))}


def test_a_model_without_drawn_gates_is_judged_once():
    calls = []
    found = over_draws([Gate(draws=False, number=0)], 5, lambda: calls.append(1) or {"top1": 50.0}, ["top1"])
    assert len(calls) == 1 and found == {"top1": 50.0}
