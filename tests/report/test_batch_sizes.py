"""Figure 8: throughput lists become points, gaps stay gaps."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import ResultSchemaError, TokenPruneError
from tokenprune.registry import build
from tokenprune.report.figures.batch_sizes import draw, table_of, words
from tokenprune.report.tables.table import build as table
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import check, flat
from tokenprune.runs.summary import summary

LISTS = {"batch": [1, 8, 64], "mean": [10.0, 40.0, None], "sd": [1.0, 2.0, None], "speedup": [0.9, 1.5, None], "note": "made up"}


def timed(label, treatment="remove", rate=0.7, **changes):
    cost = {f"throughput_{name}": value for name, value in {**LISTS, **changes}.items()}
    config = {"schedule": {"name": "stages", "keep_rate": rate}, "measure": ["accuracy", "cost", "throughput"]}
    return row(label=label, treatment=treatment, config=config, cost=cost)


ROWS = [timed("Dense", "none", None, speedup=[1.0, 1.02, None]), timed("SViT", "reactivate")]


def test_files_and_numbers(tmp_path, capsys):
    wrote = build("report", "batch_sizes")(Sweep("made_up", [*ROWS, row(status="failed")], tmp_path, tmp_path))
    assert wrote == ["batch_sizes.png", "batch_sizes.csv"] and (tmp_path / "batch_sizes.png").read_bytes().startswith(b"\x89PNG")
    points = pd.read_csv(tmp_path / "batch_sizes.csv")
    assert points["name"].tolist() == ["Dense"] * 3 + ["SViT"] * 3 and points["batch"].tolist() == [1, 8, 64] * 2
    assert points["mean"].fillna(-1).tolist() == [10, 40, -1] * 2
    assert "Dense 40 at batch 8 (1.02 x dense), SViT 40 at batch 8 (1.50 x dense)" in capsys.readouterr().out


def test_curves_and_bands():
    left, right = draw(table_of(ROWS), "made up").axes
    assert [line.get_label() for line in left.get_lines()] == ["Dense", "SViT"]
    assert list(right.get_lines()[1].get_ydata()[:2]) == [0.9, 1.5] and len(left.collections) == 2
    band = left.collections[1].get_paths()[0].vertices[:, 1]
    assert band.min() == 9 and band.max() == 42


def test_keep_rates_and_treatments_are_named_where_rows_differ_in_them():
    rows = [timed("EViT"), timed("EViT", "fuse"), timed("SViT", "reactivate", 0.5)]
    assert table_of(rows)["name"].unique().tolist() == ["EViT, remove, 0.7", "EViT, fuse, 0.7", "SViT, 0.5"]


def test_without_throughput_it_says_what_to_measure(tmp_path):
    with pytest.raises(TokenPruneError, match=r"no finished row measured throughput; add measure=\[cost,throughput\]"):
        build("report", "batch_sizes")(Sweep("made_up", [row()], tmp_path, tmp_path))


def test_a_row_that_is_not_timed_is_no_curve_and_no_error():
    untimed = timed("AdaViT", mean=[None] * 3, sd=[None] * 3, speedup=[None] * 3)
    assert words(table_of([untimed])) == "images a second: nothing was timed"


def test_the_largest_batch_that_ran_stands_in_tables_and_words():
    assert {k: v for k, v in flat(ROWS[1]).items() if "batch" in k or "images" in k} == {
        "images_per_second_batch": 8, "images_per_second": 40.0, "speedup_batch": 1.5,
    }  # fmt: skip
    shown = table(ROWS).shown
    assert list(shown["images/s"]) == ["40", "40"] and list(shown["speed-up in batches"]) == ["1.02", "1.50"]
    assert "images/s" not in table([row()]).shown and "at batch 8, the dense backbone" in table(ROWS).blocks[0]
    assert "40 images/s at batch 8" in summary(ROWS[1], "results")


def test_means_over_seeds_are_of_the_numbers_that_are_shown():
    seeds = [timed("SViT"), {**timed("SViT", mean=[10.0, 60.0, None]), "seed": 1}]
    assert list(table(seeds).shown["images/s"]) == ["50"]


def test_the_schema_asks_for_throughput_where_it_is_measured_and_takes_gaps():
    check(ROWS[1])
    for name in ("throughput_mean", "throughput_note"):
        with pytest.raises(ResultSchemaError, match=f"missing field cost.{name}"):
            check({**ROWS[1], "cost": {k: v for k, v in ROWS[1]["cost"].items() if k != name}})
    with pytest.raises(ResultSchemaError, match="cost.throughput_sd is .*expected finite"):
        check(timed("SViT", sd=[float("nan"), 1.0, None]))
