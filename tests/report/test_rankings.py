"""Rankings of papers against paired predictions: each verdict, and what is left out."""

import pandas as pd
import pytest
import torch

from tests.report.test_paired import judged as row
from tests.report.test_paired import report
from tokenprune.report.tables.rankings import Ranking, in_sentences, judged, rankings

BUDGET = ("50% of the dense GMAC", 0)


def right(count, of=200):
    return torch.arange(of) < count


def test_each_verdict_and_its_numbers():
    methods = {"A": right(150), "B": right(100), "C": right(148)}
    claims = [Ranking("A", "B", "one"), Ranking("B", "A", "two", "Trained there."), Ranking("A", "C", "three"), Ranking("A", "D", "four")]
    found = judged({BUDGET: methods}, claims, 0.05)
    assert list(found["verdict"]) == ["holds", "does not hold", "undecided"]
    assert list(found["difference"]) == [25.0, -25.0, 1.0] and (found["p_holm"] >= found["p"]).all() and set(found["images"]) == {200}
    text = in_sentences(found)
    assert "- A above B (one): 50% +25.0 (+19.0 to +31.0) holds." in text
    assert "- B above A (two): 50% -25.0 (-31.0 to -19.0) does not hold. Trained there." in text and "four" not in text


def test_without_rankings_nothing_is_said():
    assert rankings("table2_preserve") == [] and in_sentences(judged({BUDGET: {"A": right(3)}}, [], 0.05)) == ""


def test_the_report_writes_those_of_its_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenprune.report.tables.paired.rankings", lambda name: [Ranking("EViT", "Random", f"paper of {name}")])
    rows = [row(tmp_path, 120, "method=evit"), row(tmp_path, 60, "method=random")]
    assert report(tmp_path, rows) == ["paired.csv", "paired.md", "rankings.csv"]
    (line,) = pd.read_csv(tmp_path / "rankings.csv").to_dict("records")
    assert (line["verdict"], line["difference"], line["source"]) == ("holds", 30.0, "paper of made_up")
    assert "- EViT above Random (paper of made_up): keep rate 0.7 +30.0" in (tmp_path / "paired.md").read_text()


@pytest.mark.parametrize("method", ["DiffRate", "PPT", "PiToMe", "ToFu", "MCTF", "ATC", "ALGM"])
def test_the_rankings_of_each_paper_are_listed(method):
    assert any(claim.first == method and claim.second != method and claim.source for claim in rankings("training_free_gmac"))
