"""Decisions without a target."""

import pytest

from tests.helpers.pairings import pruned
from tokenprune.engine.schedule import Layout
from tokenprune.errors import InvalidConfig, InvalidSchedule
from tokenprune.registry import build


def blocks(spec, **layout):
    budgets = build("schedule", {"name": "free", **spec}).budgets(Layout(**{"depth": 12, "positions": 196, "prefix": 1, **layout}))
    assert all((b.keep, b.live, b.rate) == (196, 196, 1) for b in budgets)
    return [b.block for b in budgets]


def test_blocks_from_start_or_the_first_of_each_group():
    assert blocks({}) == list(range(1, 12)) and blocks({"start": 9}) == [9, 10, 11]
    assert blocks({"start": 0, "groups": 3}) == [0, 4, 8] and blocks({"start": 0, "groups": 3}, depth=24) == [0, 8, 16]
    assert blocks({"groups": 3}) == [4, 8] and blocks({"start": 0, "groups": 5}) == [0, 2, 4, 7, 9]
    assert blocks({"start": 10}, revive=True) == [10] and blocks({"start": 12}) == []


def test_a_selector_that_keeps_what_it_is_told_drops_nothing():
    assert not pruned("evit", "remove", {"name": "free"}).selectors
    assert len(pruned("svit", "reactivate", {"name": "free"}).selectors) == 5


def test_describe_names_the_blocks_and_no_counts():
    text = build("schedule", {"name": "free", "start": 0, "groups": 3}).describe(Layout(12, 196, 1))
    assert text.splitlines()[1:] == [f"block {block:2d}: keep what the selector finds good" for block in (0, 4, 8)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"groups": 13}, "groups is 13; allowed: null .every block., or 1 to 12"),
        ({"groups": 0}, "groups is 0; allowed"),
        ({"start": -1}, "start is -1; allowed: a block number"),
    ],
)
def test_what_cannot_be_is_refused(spec, message):
    with pytest.raises(InvalidSchedule, match=message):
        blocks(spec)


def test_a_start_that_is_no_number_is_refused_when_it_is_built():
    with pytest.raises(InvalidConfig, match=r"schedule\.start of 'free' is 'x'; allowed: an integer"):
        blocks({"start": "x"})
