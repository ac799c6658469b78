"""Learning curves: planted losses have the falls that one counts by hand."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.report.figures.learning_curves import convergence, draw, points_of
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import row_folder
from tokenprune.runs.row import LOSSES
from tokenprune.training.curve import write_curve

STEPS = range(10, 81, 10)


def planted(results, key, seed, values, label="A"):
    """A row whose loss had these values, one for each ten iterations, beside an auxiliary loss that stays at 2."""
    points = [{"iteration": step, "loss_label": value, "auxiliary": 2.0} for step, value in zip(STEPS, values, strict=True)]
    write_curve(row_folder(results, key) / LOSSES, points)
    return row(key=key, seed=seed, label=label, config={"schedule": {}, "seed": seed, "data": {"name": label}})


@pytest.fixture
def sweep(tmp_path):
    rows = [
        planted(tmp_path, "a0", 0, [8, 7, 6, 5, 4, 4, 3, 3]),
        planted(tmp_path, "a1", 1, [8, 7, 6, 5, 4, 4, 1, 1]),
        planted(tmp_path, "b0", 0, [1] * 8, "B"),
        row(key="untrained", label="C"),
    ]
    return Sweep("made_up", rows, tmp_path, tmp_path)


def test_falls_are_those_counted_by_hand(sweep):
    points = points_of(sweep)
    assert points["row"].unique().tolist() == ["A", "B"] and points["loss"].unique().tolist() == ["label", "auxiliary"]
    table = convergence(points, 0.03).set_index(["row", "loss"])
    line = table.loc[("A", "label")]
    assert (line["seeds"], line["iterations"]) == (2, 80)
    assert (line["first"], line["third_quarter"], line["last_quarter"]) == (8, 4, 2)
    assert line["fall"] == pytest.approx(0.5) and line["fall_se"] == 0 and line["flat"] == "no"
    assert table.loc[("A", "auxiliary"), "flat"] == "yes" and table.loc[("B", "label"), "fall"] == 0
    assert convergence(points, 0.5).set_index(["row", "loss"]).loc[("A", "label"), "flat"] == "yes"
    shaken = points.assign(value=points["value"].where(points["iteration"] != 80, points["value"] + 0.8))  # 4 and 4, then 2 and 2.8
    line = convergence(shaken, 0.3).set_index(["row", "loss"]).loc[("A", "label")]
    assert line["fall"] == pytest.approx(0.4) and line["fall_se"] == pytest.approx(0.1) and line["flat"] == "within noise"
    figure = draw(points, "made up")
    assert [axis.get_title() for axis in figure.axes] == ["label", "auxiliary"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [8, 7, 6, 5, 4, 4, 2, 2]  # the mean of two seeds


def test_files_are_written_and_too_few_points_say_nothing(sweep, tmp_path, capsys):
    report = build("report", {"name": "learning_curves"})
    assert report(sweep) == ["learning_curves.png", "learning_curves.csv", "convergence.csv", "convergence.md"]
    assert len(pd.read_csv(tmp_path / "learning_curves.csv")) == 3 * 2 * len(STEPS)
    assert "50.0% ± 0.0%" in capsys.readouterr().out
    short = points_of(sweep).query("iteration <= 10")
    assert convergence(short, 0.03)["flat"].isna().all()


def test_what_cannot_be_shown_is_told(tmp_path):
    with pytest.raises(TokenPruneError, match=r"no finished row has kept its losses.*rows: C \(ok\)"):
        points_of(Sweep("made_up", [row(label="C")], tmp_path, tmp_path))
    with pytest.raises(InvalidConfig, match=r"learning_curves.flat is 1.0; allowed: 0 up to below 1"):
        build("report", {"name": "learning_curves", "flat": 1})
