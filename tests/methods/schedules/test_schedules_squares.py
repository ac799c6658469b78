"""Squares that windows go on dividing."""

import pytest

from tokenprune.engine.schedule import Layout
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build


def test_croprs_counts_for_detection():
    budgets = build("schedule", "window_squares").budgets(Layout(24, 9216, revive=True))
    assert [(b.block, b.keep) for b in budgets] == [(5, 6400), (8, 4096), (11, 2304), (14, 1024), (20, 256)]
    assert 1 - budgets[-1].keep / 9216 == pytest.approx(0.97, abs=0.005), "the paper's total pruning ratio"


def test_smaller_squares():
    budgets = build("schedule", {"name": "window_squares", "blocks": [2, 5, 8], "step": 2}).budgets(Layout(12, 64, revive=True))
    assert [b.keep for b in budgets] == [36, 16, 4] and [float(b.rate) for b in budgets] == [36 / 64, 16 / 64, 4 / 64]


@pytest.mark.parametrize(
    ("options", "positions", "match"),
    [
        ({}, 4200, "4200 positions are no square"),
        ({}, 6400, "5 steps of 16 leave nothing of a side of 80; allowed: 4 blocks"),
        ({"blocks": [30]}, 9216, "block 30 is outside the model"),
        ({"blocks": [23]}, 9216, "Last Layer Fusion"),
    ],
)
def test_what_does_not_fit_is_refused(options, positions, match):
    with pytest.raises(InvalidSchedule, match=match):
        build("schedule", {"name": "window_squares", **options}).budgets(Layout(24, positions, revive=True))


@pytest.mark.parametrize("step", [0, 1.5, True])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(InvalidSchedule, match="step is"):
        build("schedule", {"name": "window_squares", "step": step})
