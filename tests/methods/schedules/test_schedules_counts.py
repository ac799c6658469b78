"""The two lists of DiffRate, and the share of current tokens of PiToMe, ToFu and MCTF."""

import pytest

from tokenprune.engine.schedule import Layout
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build, get

DEIT_S = get("selector", "diffrate").published["schedule"]


def left(schedule, depth=12, positions=196, **layout):
    """Return the tokens after each block, class token included."""
    kept = {b.block: b.keep for b in build("schedule", schedule).budgets(Layout(depth, positions, 1, **layout))}
    now, found = positions, []
    for block in range(depth):
        now = kept.get(block, now)
        found.append(now + 1)
    return found


def test_published_lists():
    assert left(DEIT_S) == [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]
    budgets = build("schedule", DEIT_S).budgets(Layout(12, 196, 1))
    assert [b.between + 1 for b in budgets] == [196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3]


def test_a_count_above_what_is_there_does_nothing():
    """The lists for ViT-T at 1.0 GFLOPs are not monotone."""
    prune = [197, 197, 196, 194, 188, 184, 178, 164, 156, 137, 129, 21]
    merge = [197, 197, 196, 190, 186, 154, 148, 156, 145, 135, 125, 21]
    assert left({"name": "counts", "prune": prune, "merge": merge}) == [197, 197, 196, 190, 186, 154, 148, 148, 145, 135, 125, 21]


def test_lists_fit_other_models():
    assert left({"name": "counts", "prune": [41, 21], "positions": 40}, 4, 80) == [81, 81, 41, 41]
    found = left({**DEIT_S, "keep_rate": 0.5})
    assert sum(n - 1 for n in found) / 12 / 196 == pytest.approx(0.5, abs=0.01) and found == sorted(found, reverse=True)
    assert left({**DEIT_S, "keep_rate": 1.0}) == [197] * 12


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prune": [0]}, "prune is"),
        ({"prune": "197"}, "prune is"),
        ({"prune": [5, 4], "merge": [5]}, "has 2 numbers and merge has 1"),
    ],
)
def test_wrong_lists_are_refused(options, text):
    with pytest.raises(InvalidSchedule, match=text):
        build("schedule", {"name": "counts", **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep_rate": 0.9}, [178, 161, 145, 131, 118, 107, 97, 88, 80, 73, 66, 60]),  # PiToMe
        ({"keep_rate": 0.9125}, [180, 165, 151, 138, 127, 116, 106, 97, 89, 82, 75, 69]),
        ({"keep_rate": 0.9, "prefix": True}, [178, 161, 145, 131, 118, 107, 97, 88, 80, 72, 65, 59]),  # ToFu
        ({"keep_rate": 0.65, "blocks": [3, 6, 9]}, [197] * 3 + [129] * 3 + [85] * 3 + [56] * 3),  # MCTF
    ],
)
@pytest.mark.parametrize("rounding", ["floor", "reference"])
def test_a_share_of_the_current_tokens_goes(options, expected, rounding):
    assert left({"name": "shrink", "rounding": rounding, **options}) == expected


def test_listed_blocks_decide_about_all_that_is_there():
    budgets = build("schedule", {"name": "listed", "blocks": [0, 6]}).budgets(Layout(12, 196, 1))
    assert [(b.block, b.keep, b.live, b.stage) for b in budgets] == [(0, 196, 196, 0), (6, 196, 196, 1)]
    with pytest.raises(InvalidSchedule, match="block 12 is outside the model"):
        build("schedule", {"name": "listed", "blocks": [12]}).budgets(Layout(12, 196, 1))


def test_a_wrong_start_is_refused():
    with pytest.raises(InvalidSchedule, match="start is -1"):
        build("schedule", {"name": "shrink", "start": -1})
    assert left({"name": "shrink", "keep_rate": 1.0}) == [197] * 12
