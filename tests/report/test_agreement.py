"""The report `agreement`: pairs of made-up usages by hand, files of real rows, and what it refuses."""

import pandas as pd
import pytest
import torch

from tests.helpers.fakes import row
from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.agreement import overlap
from tokenprune.registry import build
from tokenprune.report.figures.agreement import ALL, compared, in_words, names_of
from tokenprune.runs.load import load_row
from tokenprune.runs.reports import Sweep


def used(*blocks: str) -> torch.Tensor:
    return torch.tensor([[cell == "x" for cell in block] for block in blocks])


def test_pairs_are_compared_picture_by_picture():
    usages = {"a": [used("xxxx", "xx.."), used("xxxx", "xx..")], "b": [used("xxxx", "xx.."), used("xxxx", "..xx")]}
    table = compared(usages).set_index("block")
    assert table.loc[1, "overlap"] == pytest.approx(0.5) and table.loc[1, "by_chance"] == pytest.approx(1 / 3)
    assert pd.isna(table.loc[0, "overlap"]) and table.loc[ALL, "overlap"] == pytest.approx(0.5)
    assert table.loc[ALL, "rank_correlation"] == pytest.approx(0.0)  # 1 in the first picture, -1 in the second
    assert table.loc[ALL, "pictures"] == 2
    assert in_words(table.reset_index()) == "agreement: a and b share 50% of their kept tokens (chance 33%)"


def test_rows_on_other_grids_are_refused():
    with pytest.raises(TokenPruneError, match="a and b see pictures on different grids"):
        compared({"a": [used("xx")], "b": [used("xxxx")]})


def test_names_tell_rows_apart():
    def one(label="A", treatment="remove", rate=0.7, seed=0, key="k" * 16):
        return row(label=label, treatment=treatment, seed=seed, key=key, config={"schedule": {"keep_rate": rate}})

    assert names_of([one(), one("B")]) == ["A", "B"]
    assert names_of([one(), one(treatment="preserve"), one("B")]) == ["A, remove", "A, preserve", "B, remove"]
    assert names_of([one(), one(rate=0.5, seed=1)]) == ["A, 0.7, seed 0", "A, 0.5, seed 1"]
    assert names_of([one(key="abcd00"), one(key="ef0100")]) == ["A (abcd)", "A (ef01)"]


def test_files_and_numbers_of_real_rows(tmp_path, capsys):
    rows = [made(tmp_path, f"method={method}", "task=classification") for method in ("random", "variance", "evit")]
    folder = tmp_path / "t"
    folder.mkdir()
    assert build("report", {"name": "agreement", "images": 3})(Sweep("made_up", rows, folder, tmp_path)) == [
        "agreement.png",
        "agreement.csv",
    ]
    assert (folder / "agreement.png").read_bytes().startswith(b"\x89PNG") and "of their kept tokens" in capsys.readouterr().out
    table = pd.read_csv(folder / "agreement.csv", dtype={"block": str})
    assert len(table) == 3 * (12 + 1) and set(table["pictures"]) == {3}
    first, second = ([p.used.flatten(1) for p in load_row(r, tmp_path).pictures(range(3), predict=False)] for r in rows[:2])
    expected = torch.stack([overlap(a, b)[9] for a, b in zip(first, second, strict=True)]).mean()
    line = table[(table["second"] == rows[1]["label"]) & (table["block"] == "9")].iloc[0]
    assert line["overlap"] == pytest.approx(float(expected)) and 0 < line["by_chance"] < 1


def test_one_pruned_row_has_nothing_to_agree_with(tmp_path):
    sweep = Sweep("made_up", [row(), row(label="Dense", treatment="none"), row(label="X", status="failed")], tmp_path, tmp_path)
    with pytest.raises(TokenPruneError, match=r"two pruned rows or more.*rows: EViT \(ok\), Dense \(ok\), X \(failed\)"):
        build("report", "agreement")(sweep)


def test_options_are_checked():
    with pytest.raises(InvalidConfig, match="reports.agreement.images is 0"):
        build("report", {"name": "agreement", "images": 0})
