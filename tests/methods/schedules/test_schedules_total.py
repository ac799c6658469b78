"""Per-block schedules by what is gone in the end."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenprune.engine.schedule import Layout
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build


@pytest.mark.parametrize(
    ("total", "depth", "positions", "remove"), [(0.816, 12, 196, 16), (0.898, 24, 196, 8), (0.9375, 32, 256, 8), (0.86, 24, 1024, 40)]
)
def test_croprs_models_get_croprs_r(total, depth, positions, remove):
    layout = Layout(depth, positions, 1, revive=True)
    plan = build("schedule", {"name": "total", "total": total})
    assert plan.budgets(layout) == build("schedule", {"name": "per_block", "remove": remove}).budgets(layout)
    assert [block for block, _ in plan.rates(layout)] == list(range(1, depth - 1))


@given(st.floats(0.05, 1.0), st.integers(3, 40), st.integers(20, 2000), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_as_many_leave_each_time_and_one_is_always_left(total, depth, positions, multiple, step, revive):
    decisions = len(range(1, depth - revive, step))
    assume(decisions and (positions - 2) // decisions >= multiple)
    options = {"name": "total", "total": round(total, 3), "multiple": multiple, "step": step}
    budgets = build("schedule", options).budgets(Layout(depth, positions, 1, revive=revive))
    gone = [b.live - b.keep for b in budgets]
    assert len(budgets) == decisions and len(set(gone[1:])) <= 1 and gone[0] == (gone[1] if gone[1:] else gone[0] - 1) + 1
    assert (gone[0] - 1) % multiple == 0 and budgets[-1].keep >= 1


WRONG = [({"total": 1.5}, "total is 1.5"), ({"multiple": 0}, "multiple is 0"), ({"step": 1.5}, "step is 1.5")]


@pytest.mark.parametrize(("wrong", "match"), WRONG)
def test_wrong_options_are_named(wrong, match):
    with pytest.raises(InvalidSchedule, match=match):
        build("schedule", {"name": "total", **wrong})


def test_too_few_tokens_for_a_multiple():
    with pytest.raises(InvalidSchedule, match="10 decisions over 64 tokens cannot drop 8 each; set schedule.multiple=1"):
        build("schedule", {"name": "total", "multiple": 8}).budgets(Layout(12, 64, 1, revive=True))
