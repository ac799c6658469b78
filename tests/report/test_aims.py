"""Aims: a line a row, with yes or no, from numbers alone."""

import pytest

from tests.helpers.rows import row
from tokenprune.errors import InvalidConfig
from tokenprune.report.tables.aims import Aims
from tokenprune.runs.reports import Sweep

AIMS = Aims(dense=55, treatments={"remove": 10, "preserve": 4}, methods={"SViT": 2})


def a_row(label, treatment, score, seed=0, **changes):
    schedule = {"keep_rate": None if treatment == "none" else 0.7}
    found = {"label": label, "treatment": treatment, "scale": "demo", "seed": seed, "metrics": {"ap_box": score}, **changes}
    return row(**found, config={"schedule": schedule})


ROWS = [
    a_row("Dense", "none", 56.0),
    a_row("EViT", "remove", 46.0),
    a_row("EViT", "preserve", 51.9),
    a_row("SViT", "reactivate", 53.5),
    a_row("Evo-ViT", "reactivate", 10.0),
]


def test_each_row_is_held_to_the_aim_of_its_method_or_treatment(tmp_path, capsys):
    wrote = AIMS(Sweep("t", ROWS, tmp_path, tmp_path))
    text = (tmp_path / "aims.md").read_text()
    assert wrote == ["aims.md"] and text.splitlines()[3:] == [
        "- Dense at least 55: 56.0, yes",
        "- EViT, remove at 0.7, at most 10 behind Dense: 10.0, yes",
        "- EViT, preserve at 0.7, at most 4 behind Dense: 4.1, no",
        "- SViT, reactivate at 0.7, at most 2 behind Dense: 2.5, no",
    ]
    assert "Aims of scale=demo, box AP:" in capsys.readouterr().out


def test_seeds_count_by_their_mean():
    rows = [a_row("Dense", "none", s, i) for i, s in enumerate((54.0, 57.0))] + [a_row("EViT", "remove", 45.6, 0)]
    assert list(AIMS.lines(rows)) == ["- Dense at least 55: 55.5, yes", "- EViT, remove at 0.7, at most 10 behind Dense: 9.9, yes"]


def test_of_several_dense_rows_the_best_counts():
    rows = [*ROWS[:2], a_row("Dense, other start", "none", 60.0)]
    assert list(AIMS.lines(rows)) == [
        "- Dense at least 55: 56.0, yes",
        "- EViT, remove at 0.7, at most 10 behind Dense, other start: 14.0, no",
        "- Dense, other start at least 55: 60.0, yes",
    ]


@pytest.mark.parametrize("rows", [ROWS[1:], [{**r, "scale": "paper"} for r in ROWS], [{**r, "status": "diverged"} for r in ROWS]])
def test_nothing_to_say(rows, tmp_path):
    assert AIMS(Sweep("t", rows, tmp_path, tmp_path)) == [] and not list(tmp_path.iterdir())


def test_options_that_do_not_fit():
    with pytest.raises(InvalidConfig, match="reports.aims: score is 'ap'; allowed: ap_box"):
        Aims(score="ap")
    with pytest.raises(InvalidConfig, match="reports.aims.dense is 'high'"):
        Aims(dense="high")
