"""ToMe's schedule on a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.pairings import images, pruned
from tokenprune.engine.rates import sloping
from tokenprune.engine.schedule import Layout
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build


def removed(remove, inflect, depth=12, positions=1000, **layout):
    """Return how many tokens leave at each block."""
    budgets = build("schedule", {"name": "linear", "remove": remove, "inflect": inflect}).budgets(Layout(depth, positions, 1, **layout))
    assert [b.block for b in budgets] == list(range(depth - layout.get("revive", False)))
    return [b.live - b.keep for b in budgets]


def test_published_decreasing_schedules():
    assert removed(13, -1) == [26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0] and sum(removed(13, -1)) == 151
    assert removed(16, -1) == [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0] and sum(removed(16, -1)) == 187
    assert removed(13, 0) == [13] * 12 and removed(13, 1.0) == [0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 26]


@given(st.integers(0, 40), st.integers(-20, 20), st.integers(2, 40))
def test_counts_are_on_the_line(remove, slope, blocks):
    """In whole numbers, for inflect a multiple of 1/20."""
    first = remove * (20 - slope) // 20
    found = sloping(remove, slope / 20, blocks)
    assert len(found) == blocks and found[0] == first and found[0] + found[-1] == 2 * remove
    assert all(0 <= first * (blocks - 1) + 2 * i * (remove - first) - n * (blocks - 1) < blocks - 1 for i, n in enumerate(found))
    assert sloping(remove, slope / 20, 1) == [first]


def test_constant_is_per_block():
    plain = build("schedule", {"name": "per_block", "remove": 8, "start": 0, "align": False})
    line = build("schedule", {"name": "linear", "remove": 8, "inflect": 0})
    assert line.budgets(Layout(12, 196, 1)) == plain.budgets(Layout(12, 196, 1))


def test_later_starts_and_fusing_blocks_shorten_the_line():
    assert removed(13, -1, depth=13, revive=True) == removed(13, -1)
    late = build("schedule", {"name": "linear", "remove": 13, "start": 2}).budgets(Layout(14, 1000, 1))
    assert [b.block for b in late] == list(range(2, 14)) and [b.live - b.keep for b in late] == removed(13, -1)
    assert build("schedule", {"name": "linear", "start": 12}).budgets(Layout(12, 196, 1)) == ()


def test_tome_runs_it_under_its_cap():
    model = pruned("tome", "merge", {"name": "linear", "remove": 9, "inflect": -1})
    assert [b.keep for b in model.budgets(64).values()] == [46, 32, 22, 15, 12]
    assert model.encode(images(1)).usage[-1].fed.item() == 13


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"remove": -1}, "remove is -1; allowed: a whole number >= 0"),
        ({"remove": 1.5}, "remove is 1.5; allowed: a whole number"),
        ({"start": True}, "start is True; allowed: a whole number"),
        ({"inflect": -2}, r"inflect is -2; allowed: -1 \(falls from twice"),
        ({"inflect": "x"}, "inflect is 'x'; allowed"),
        ({"remove": 30}, "block 3: -10 of 33 tokens would stay, at least 1 must"),
    ],
)
def test_what_cannot_be_is_refused(spec, text):
    with pytest.raises(InvalidSchedule, match=text):
        build("schedule", {"name": "linear", **spec}).budgets(Layout(12, 196, 1))
