"""The iso-compute figure: what was found, what was spent, how far that is off."""

import pandas as pd
import pytest

from tests.helpers.rows import made
from tokenprune.errors import TokenPruneError
from tokenprune.registry import build
from tokenprune.report.figures.iso_compute import draw, table_of
from tokenprune.runs.reports import Sweep


def spent(folder, gmac, top1, *overrides, **changes):
    metrics = {"top1": top1, "top1_se": 1.5}
    found = made(folder, "task=classification", *overrides, **changes)
    return {**found, "metrics": metrics, "cost": {**found["cost"], "gmac_total": gmac}}


def test_files_and_numbers(tmp_path, capsys):
    target = "schedule.target_gmac=0.018"
    rows = [
        spent(tmp_path, 0.027, 70.0, "method=dense", target),
        spent(tmp_path, 0.0181, 60.0, "method=evit", target),
        spent(tmp_path, 0.0171, 66.0, "method=tome", target),
    ]
    wrote = build("report", "iso_compute")(Sweep("made_up", rows, tmp_path, tmp_path))
    assert wrote == ["iso_compute.png", "iso_compute.csv"]
    points = pd.read_csv(tmp_path / "iso_compute.csv")
    assert points["target_gmac"].fillna(0).tolist() == [0, 0.018, 0.018] and points["remove"].fillna(0).tolist() == [0, 0, 3]
    assert points["off_target"][1:].tolist() == pytest.approx([0.1 / 18, -0.05]) and points["value"].tolist() == [70, 60, 66]
    assert "2 methods at 0.018 GMAC; farthest off: ToMe -5.0%" in capsys.readouterr().out


def test_a_threshold_that_was_found_is_named(tmp_path):
    row = spent(tmp_path, 0.0182, 60.0, "method=algm", "schedule.target_gmac=0.018", "selector.threshold=0.75")
    points = table_of([row])
    assert points["dial"].tolist() == ["threshold 0.75"]
    (axis,) = draw(points, "made up").axes
    assert [text.get_text() for text in axis.texts] == ["threshold 0.75, 0.0182 GMAC"]


def test_seeds_are_one_line(tmp_path):
    rows = [spent(tmp_path, 0.018, top1, "method=evit", f"seed={seed}", seed=seed) for seed, top1 in enumerate((50.0, 60.0))]
    build("report", "iso_compute")(Sweep("made_up", rows, tmp_path, tmp_path))
    points = pd.read_csv(tmp_path / "iso_compute.csv")
    assert points["seeds"].tolist() == [2] and points["value"].tolist() == [55] and points["error"][0] == pytest.approx(50**0.5)


def test_without_rows_it_says_so(tmp_path):
    with pytest.raises(TokenPruneError, match="no finished row has accuracy and cost"):
        build("report", "iso_compute")(Sweep("made_up", [], tmp_path, tmp_path))
