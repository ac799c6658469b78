"""Rows compared on the same images: files, verdicts, rows that cannot be compared."""

import pandas as pd
import pytest
import torch

from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import row_folder
from tokenprune.runs.row import PER_IMAGE
from tokenprune.utils.checkpoints import save_weights

N = 200
TRUE = torch.arange(N) % 10


def judged(folder, right, *overrides, wrong=-1, true=TRUE, **changes):
    """Make a row that has the first `right` images right and predicts `wrong` for the others."""
    row = made(folder, "task=classification", *overrides, **changes)
    predicted = TRUE.clone()
    predicted[right:] = wrong
    if true is not None:
        save_weights(row_folder(folder, row["key"]) / PER_IMAGE, {"predicted": predicted.int(), "true": true.int()})
    return row


def report(folder, rows, **options):
    return build("report", {"name": "paired", **options})(Sweep("made_up", rows, folder, folder))


def test_files_numbers_and_verdicts(tmp_path, capsys):
    rows = [
        judged(tmp_path, 150, "method=dense"),
        judged(tmp_path, 120, "method=evit", "schedule.keep_rate=0.5"),
        judged(tmp_path, 118, "method=topk", "schedule.keep_rate=0.5", wrong=-2),
        judged(tmp_path, 80, "method=random", "schedule.keep_rate=0.5"),
        judged(tmp_path, 140, "method=evit", "schedule.keep_rate=0.9"),
    ]
    assert report(tmp_path, rows) == ["paired.csv", "paired.md"]
    table = pd.read_csv(tmp_path / "paired.csv")
    assert table.groupby("budget", sort=False).size().to_dict() == {"keep rate 0.5": 6, "keep rate 0.9": 1}
    first = table.iloc[0]
    assert (first["first"], first["second"], first["better"]) == ("EViT, remove", "Attention top-k, remove", "undecided")
    assert (first["first_only"], first["second_only"], first["difference"]) == (2, 0, 1.0)
    against = table[(table["first"] == "Random, remove") & (table["second"] == "Dense")].iloc[0]
    assert (against["second_only"], against["difference"], against["better"]) == (70, -35.0, "Dense")
    assert (table["p_holm"] >= table["p"]).all()
    text = (tmp_path / "paired.md").read_text()
    assert "## keep rate 0.5, seed 0 (200 images)" in text and text.index("| EViT, remove | 60.00") < text.index("| Random, remove | 40.00")
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert lines["Attention top-k, remove"].endswith("| yes |") and lines["Random, remove"].endswith("| no |")
    assert " | 85.0 | " in lines["EViT, remove"] or " | 95.0 | " in lines["EViT, remove"]  # 120 or 140 right ones and 50 equal wrong ones
    assert " | 59.0 | " in lines["Attention top-k, remove"]  # it shares the right ones alone with the dense model
    assert "Holm" in text and "keep rate 0.9" in capsys.readouterr().out


def test_targets_of_gmac_are_budgets_and_equal_names_are_told_apart(tmp_path):
    rows = [
        judged(tmp_path, 120, "method=evit", "schedule.target_gmac=65%", label="Mine"),
        judged(tmp_path, 90, "method=topk", "schedule.target_gmac=65%", label="Mine"),
    ]
    report(tmp_path, rows)
    (pair,) = pd.read_csv(tmp_path / "paired.csv").to_dict("records")
    assert pair["budget"] == "65% of the dense GMAC"
    assert pair["first"] == pair["better"] == f"Mine, remove ({rows[0]['key'][:4]})" and pair["second"] != pair["first"]


def test_budgets_of_one_row_each_have_no_pair(tmp_path):
    rows = [judged(tmp_path, 120, "method=evit", f"schedule.keep_rate={rate}") for rate in (0.5, 0.9)]
    report(tmp_path, rows)
    assert pd.read_csv(tmp_path / "paired.csv").empty and "| EViT, remove | 60.00 |" in (tmp_path / "paired.md").read_text()


def test_rows_that_cannot_be_compared(tmp_path):
    one = judged(tmp_path, 120, "method=evit")
    with pytest.raises(TokenPruneError, match="1 finished rows of made_up have predictions.*--fresh"):
        report(tmp_path, [one, judged(tmp_path, 0, "method=topk", true=None)])
    with pytest.raises(TokenPruneError, match="Random and EViT saw other images"):
        report(tmp_path, [one, judged(tmp_path, 100, "method=random", true=TRUE.flip(0))])
    report(tmp_path, [one, judged(tmp_path, 100, "method=variance"), judged(tmp_path, 0, "method=dense", true=None)])
    assert "Without predictions of single images, and left out: Dense." in (tmp_path / "paired.md").read_text()
    with pytest.raises(InvalidConfig, match="reports.paired.level is 5"):
        build("report", {"name": "paired", "level": 5.0})
