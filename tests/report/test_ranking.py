"""The ranking of pairings: best first, refused ones with their reason and no failure."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import TokenPruneError
from tokenprune.registry import build
from tokenprune.runs.reports import Sweep
from tokenprune.runs.run import Run
from tokenprune.runs.sweep import expected


def judged(label, treatment, top1, seed=0):
    metrics = {"top1": top1, "top1_se": 2.0}
    return {**row(label=label, treatment=treatment, cost={"gmac_total": 1.0}, seed=seed), "metrics": metrics}


def test_the_best_comes_first_and_refusals_have_reasons(tmp_path, capsys):
    rows = [judged("Dense", "none", 70.0), judged("A", "remove", 50.0), judged("B", "preserve", 60.0, 0), judged("B", "preserve", 64.0, 1)]
    rows.append(row(label="A", treatment="reactivate", status="invalid", reason="saves nothing"))
    wrote = build("report", "ranking")(Sweep("made_up", rows, tmp_path, tmp_path))
    assert wrote == ["ranking.png", "ranking.csv", "ranking.md"]
    points = pd.read_csv(tmp_path / "ranking.csv")
    assert points["label"].tolist() == ["Dense", "B", "A"] and points["value"].tolist() == [70, 62, 50]
    assert points["error"].tolist() == pytest.approx([2.0, 8**0.5, 2.0]) and points["seeds"].tolist() == [1, 2, 1]
    text = (tmp_path / "ranking.md").read_text()
    assert "| 2 | B | preserve | 62.0 | 2.83 | 1 |" in text and "- A, reactivate: saves nothing" in text
    assert "refused pairings: 1" in capsys.readouterr().out


def test_only_this_report_makes_something_of_refused_rows():
    assert expected(Run(reports={"table": {}, "plot": None})) == set()
    assert expected(Run(reports={"ranking": {}})) == {"invalid"}


def test_without_an_accuracy_there_is_nothing_to_rank(tmp_path):
    with pytest.raises(TokenPruneError, match="no finished row has an accuracy"):
        build("report", "ranking")(Sweep("made_up", [], tmp_path, tmp_path))


def test_a_treatment_goes_by_its_own_name(tmp_path):
    """Tables call Evo-ViT's reactivation "preserve"; here both are pairings."""
    rows = [judged("Evo-ViT", "preserve", 50.0), {**judged("Evo-ViT", "preserve", 60.0), "config": {"treatment": {"name": "reactivate"}}}]
    build("report", "ranking")(Sweep("made_up", rows, tmp_path, tmp_path))
    assert pd.read_csv(tmp_path / "ranking.csv")["treatment"].tolist() == ["reactivate", "preserve"]
