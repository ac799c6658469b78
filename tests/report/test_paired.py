"""Rows compared on the same images: files, verdicts, rows that cannot be compared."""

import pandas as pd
import pytest
import torch

from tests.helpers.fakes import row
from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.resamples import Resampled
from tokenprune.registry import build
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import row_folder
from tokenprune.runs.row import PER_IMAGE, RESAMPLED
from tokenprune.utils.checkpoints import read_weights, save_weights

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


def test_rows_that_cannot_be_compared(tmp_path, capsys):
    one = judged(tmp_path, 120, "method=evit")
    assert report(tmp_path, [one, judged(tmp_path, 0, "method=topk", true=None)]) == [] and not (tmp_path / "paired.md").exists()
    said = capsys.readouterr().err
    assert "paired: 1 of the 2 finished rows of made_up have a file of what was found for their pictures" in said and "--fresh" in said
    with pytest.raises(TokenPruneError, match="Random and EViT saw other images"):
        report(tmp_path, [one, judged(tmp_path, 100, "method=random", true=TRUE.flip(0))])
    report(tmp_path, [one, judged(tmp_path, 100, "method=variance"), judged(tmp_path, 0, "method=dense", true=None)])
    assert "Without a file of their pictures, and left out: Dense." in (tmp_path / "paired.md").read_text()
    with pytest.raises(InvalidConfig, match="reports.paired.level is 5"):
        build("report", {"name": "paired", "level": 5.0})


def test_refused_rows_are_expected_unless_the_options_say_otherwise():
    assert build("report", {"name": "paired"}).expects == ("invalid",)
    assert build("report", {"name": "paired", "refusals": False}).expects == ()


NOISE = torch.linspace(-2, 2, 41, dtype=torch.float64)  # of the pictures, which moves all rows alike


def detected(folder, label, treatment, box, own, draws=5, seed=0, rate=0.7, **metrics):
    """Return the row of a detector whose APs over resamples are those of its pictures, and `own` times every other one of them."""
    config = {"schedule": {"keep_rate": None if treatment == "none" else rate}}
    one = row(key=f"{label}{treatment}{seed}".lower().replace(" ", ""), label=label, treatment=treatment, seed=seed, config=config)
    one["metrics"] = {"ap_box": box, "ap_mask": box - 5, **metrics}
    odd = NOISE * (torch.arange(41) % 2) * own
    values = {"ap_box": box + NOISE + odd, "ap_mask": box - 5 + NOISE - odd}
    if draws is not None:
        save_weights(row_folder(folder, one["key"]) / RESAMPLED, Resampled(values, 300, draws).tensors)
    return one


def test_detectors_are_compared_over_the_resamples_that_they_share(tmp_path, capsys):
    rows = [
        detected(tmp_path, "Dense", "none", 60.0, 0.0),
        detected(tmp_path, "EViT", "remove", 50.0, 0.1),
        detected(tmp_path, "EViT", "preserve", 52.0, 0.0),
        detected(tmp_path, "ATS", "preserve", 51.9, 0.3),
        detected(tmp_path, "Dense, elastic start", "none", 62.0, 0.0),
    ]
    assert report(tmp_path, rows) == ["paired.csv", "paired.md"]
    table = pd.read_csv(tmp_path / "paired.csv")
    assert table.groupby("metric", sort=False).size().to_dict() == {"ap_box": 9, "ap_mask": 9}  # 3 pairs, and each with both dense rows
    line = table[(table["first"] == "EViT, remove") & (table["second"] == "EViT, preserve")].iloc[0]
    error = (0.1 * NOISE * (torch.arange(41) % 2)).std().item()
    assert (line["difference"], line["pictures"], line["better"]) == (-2.0, 300, "EViT, preserve")
    assert (line["low"], line["high"]) == pytest.approx((-2 - 1.96 * error, -2 + 1.96 * error), abs=1e-3)
    assert error < NOISE.std() / 10  # the pictures' own noise is gone
    text = (tmp_path / "paired.md").read_text()
    assert "## keep rate 0.7, seed 0 (300 pictures)" in text
    minus = "minus Dense, elastic start"  # the best row that drops nothing
    assert f"| Method | box AP | {minus} | mask AP | {minus} | GMAC | like the best |" in text
    assert "| EViT, preserve | 52.00 | -10.00 (-10.00 to -10.00) | 47.00 | -10.00 (-10.00 to -10.00) |" in text
    assert "| Dense | 60.00 |  | 55.00 |  |" in text
    ends = {part[0]: part[-1] for part in ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()) if len(part) > 2}
    assert (ends["EViT, preserve"], ends["ATS, preserve"], ends["EViT, remove"]) == ("best", "yes", "no")
    assert "- EViT, preserve minus remove: box AP +2.00 (+1.84 to +2.16), decided; mask AP +2.00 (+1.84 to +2.16), decided" in text
    assert "41 resamples of the pictures, the same for both rows, which tell the error itself to about 11 %" in text
    assert "another seed" in text and "keep rate 0.7" in capsys.readouterr().out


def test_detectors_of_earlier_versions_are_named_and_those_of_other_pictures_refused(tmp_path, capsys):
    rows = [detected(tmp_path, "A", "remove", 50.0, 0.1), detected(tmp_path, "B", "remove", 51.0, 0.2)]
    report(tmp_path, [*rows, detected(tmp_path, "Old", "remove", 40.0, 0.0, draws=None)])
    assert "Without a file of their pictures, and left out: Old." in (tmp_path / "paired.md").read_text()
    assert report(tmp_path, [detected(tmp_path, name, "remove", 40.0, 0.0, draws=None) for name in ("X", "Y")]) == []
    assert "paired: 0 of the 2 finished rows of made_up" in capsys.readouterr().err
    with pytest.raises(TokenPruneError, match="Other and A saw other images"):
        report(tmp_path, [rows[0], detected(tmp_path, "Other", "remove", 40.0, 0.0, draws=6)])
    with pytest.raises(TokenPruneError, match="Classifier and A saw other images"):
        report(tmp_path, [rows[0], judged(tmp_path, 100, "method=evit", label="Classifier")])


def test_each_seed_is_compared_by_itself(tmp_path):
    rows = [detected(tmp_path, name, "remove", box, 0.1, seed=seed) for seed in (0, 1) for name, box in (("A", 50.0), ("B", 49.0))]
    report(tmp_path, rows)
    assert pd.read_csv(tmp_path / "paired.csv")["seed"].tolist() == [0, 0, 1, 1]


def test_a_segmenter_has_one_metric(tmp_path):
    rows = [detected(tmp_path, name, "remove", 50.0, own) for name, own in (("A", 0.1), ("B", 0.2))]
    for one in rows:
        values = {"miou": Resampled.of_tensors(read_weights(row_folder(tmp_path, one["key"]) / RESAMPLED)).values["ap_box"]}
        save_weights(row_folder(tmp_path, one["key"]) / RESAMPLED, Resampled(values, 100, 3).tensors)
        one["metrics"] = {"miou": 50.0}
    report(tmp_path, rows)
    assert "| Method | mIoU | minus dense | GMAC | like the best |" in (tmp_path / "paired.md").read_text()
    assert pd.read_csv(tmp_path / "paired.csv")["metric"].tolist() == ["miou"]
