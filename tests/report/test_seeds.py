"""Rows over seeds: one line a configuration, what its spread is, seeds that failed, differences paired by seed."""

import math

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.report.tables.formats import to_text
from tokenprune.report.tables.seeds import configuration, paired
from tokenprune.report.tables.table import build
from tokenprune.runs.reports import Sweep, make_reports

FAILED = {"status": "diverged", "reason": "loss is nan", "metrics": {}, "cost": {}}


def runs(values: dict[int, float], **changes) -> list[dict]:
    """EViT rows of box AP per seed; the configuration holds the seed where a real one does."""
    config = {"schedule": {"name": "stages", "keep_rate": 0.7}, **changes.pop("config", {})}
    configs = {s: {**config, "seed": s, "training": {"seed": s}} for s in values}
    return [row(seed=s, key=f"{s:016d}", metrics={"ap_box": v, "ap_box_se": 0.6}, config=configs[s], **changes) for s, v in values.items()]


def failed(found: dict) -> dict:
    return {**found, **FAILED}


def test_seeds_are_one_line_with_mean_and_standard_deviation():
    rows = runs({0: 40.0, 1: 42.0, 2: 44.0})
    rows[0]["cost"], rows[1]["cost"] = {**rows[0]["cost"], "seconds_encoder": 0.01}, {**rows[1]["cost"], "seconds_encoder": 0.04}
    table = build(rows)
    (line,) = table.shown.to_dict("records")
    assert line["box AP"] == "42.0 ± 2.0" and line["seeds"] == "3" and line["status"] == "ok" and line["encoder s/img"] == "0.0200"
    assert "±: standard deviation over seeds" in to_text(table) and "bootstrap" not in to_text(table)
    assert list(table.data["ap_box"]) == [40.0, 42.0, 44.0] and "seed" not in line


def test_the_numbers_over_seeds_are_written_beside_the_raw_rows(tmp_path):
    make_reports({"table": {}}, Sweep("sweep", runs({0: 40.0, 1: 42.0}), tmp_path, tmp_path))
    (line,) = pd.read_csv(tmp_path / "table_seeds.csv").to_dict("records")
    assert (line["ap_box_mean"], line["n"], line["seeds"], line["gmac_total_std"]) == (41.0, 2, "0 1", 0.0)
    assert line["ap_box_std"] == pytest.approx(math.sqrt(2)) and len(pd.read_csv(tmp_path / "table.csv")) == 2
    make_reports({"table": {}}, Sweep("sweep", runs({0: 40.0}), tmp_path, tmp_path))
    assert not (tmp_path / "table_seeds.csv").exists()  # it would be of other rows


def test_failed_seeds_are_counted_and_named():
    first, second, third = runs({0: 40.0, 1: 42.0, 2: 99.0})
    table = build([first, failed(second), third])
    (line,) = table.shown.to_dict("records")
    assert (line["seeds"], line["status"], line["box AP"]) == ("2 of 3", "2 ok, 1 diverged", "69.5 ± 41.7")
    assert "EViT remove, seed 1: diverged: loss is nan" in to_text(table)
    (line,) = build([failed(first), failed(second)]).shown.to_dict("records")
    assert (line["seeds"], line["status"]) == ("0 of 2", "diverged") and "box AP" not in line


def test_a_line_of_one_seed_keeps_the_bootstrap_error_and_the_legend_says_so():
    table = build([*runs({0: 40.0, 1: 42.0}), *runs({0: 50.0}, treatment="preserve", config={"treatment": {"name": "preserve"}})])
    assert list(table.shown["box AP"]) == ["41.0 ± 1.4", "50.0 ± 0.6"] and list(table.shown["seeds"]) == ["2", "1"]
    assert "of a line with one seed, bootstrap standard error" in to_text(table)


def test_other_configurations_are_other_lines():
    rows = runs({0: 40.0, 1: 42.0}) + runs({0: 30.0, 1: 32.0}, config={"schedule": {"name": "stages", "keep_rate": 0.5}})
    assert list(build(rows).shown["keep_rate"]) == ["0.7", "0.5"]


def test_seeds_of_data_and_of_the_dense_model_stay_in_a_configuration():
    base = {"seed": 0, "training": {"seed": 0, "lr": 1}, "data": {"seed": 0}, "init": "dense", "dense": {"seed": 0, "init": "scratch"}}
    same = {**base, "seed": 1, "training": {"seed": 1, "lr": 1}}
    assert configuration(base) == configuration(same)
    others = [{**base, "data": {"seed": 1}}, {**base, "dense": {"seed": 1, "init": "scratch"}}, {**base, "training": {"seed": 0, "lr": 2}}]
    assert len({configuration(c) for c in (base, *others)}) == 4
    assert configuration(base, ("data",)) == configuration(others[0], ("data",))


def test_preserve_minus_remove_is_paired_by_seed():
    """A spread that both treatments share does not widen the error of their difference."""
    gone = runs({0: 20.0, 1: 40.0, 2: 30.0}, config={"treatment": {"name": "remove"}})
    kept = runs({0: 23.0, 1: 44.0, 2: 35.0}, treatment="preserve", config={"treatment": {"name": "preserve"}})
    text = to_text(build([*gone, *kept]))
    assert "standard error over seeds, paired by seed" in text and "EViT at 0.7, 3 seeds: box AP +4.0 ± 0.6" in text
    text = to_text(build([*gone[:2], *kept[1:]]))  # one seed in common
    assert "EViT at 0.7, seed 1: box AP +4.0 ± 0.8" in text and "paired" not in text


def test_rows_that_differ_in_more_than_the_treatment_are_no_pair():
    gone = runs({0: 20.0}, config={"treatment": {"name": "remove"}, "cls": "learned"})
    kept = runs({0: 23.0}, treatment="preserve", config={"treatment": {"name": "preserve"}, "cls": "random"})
    assert "minus" not in to_text(build([*gone, *kept]))


def test_differences_by_seed():
    gap = paired({0: 5.0, 1: 7.0, 3: 1.0}, {0: 4.0, 1: 4.0, 2: 9.0})
    assert (gap.mean, gap.error, gap.n) == (2.0, 1.0, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None and math.isnan(paired({0: 1.0}, {0: 1.0}).error)


def test_the_plot_has_a_point_a_configuration(tmp_path, monkeypatch):
    from tokenprune.report.figures.shared import plots

    drawn = []
    monkeypatch.setattr(plots, "speed_accuracy", lambda data, path, title: drawn.append(data))
    make_reports({"plot": {}}, Sweep("sweep", runs({0: 40.0, 1: 42.0}), tmp_path, tmp_path))
    assert list(drawn[0]["ap_box"]) == [41.0] and drawn[0]["ap_box_se"][0] == pytest.approx(math.sqrt(2))


def test_rows_of_one_seed_are_never_two_seeds():
    """A selector was edited between two runs: the newest row counts, in whatever order they are read."""
    (first,), (again,) = runs({0: 40.0}), runs({0: 60.0})
    first, again = {**first, "key": "f" * 16, "made": "2026-01-02T00:00:00+00:00"}, {**again, "made": "2026-01-03T00:00:00+00:00"}
    for rows in ([first, again], [again, first]):
        table = build(rows)
        (line,) = table.shown.to_dict("records")
        assert line["box AP"] == "60.0 ± 0.6" and "seeds" not in line and table.seeds is None
        assert f"EViT remove, seed 0: row {'f' * 16}; row {again['key']} stands above" in to_text(table)
    (line,) = build([first, *runs({1: 50.0}), again]).shown.to_dict("records")
    assert (line["seeds"], line["box AP"]) == ("2", "55.0 ± 7.1")  # of 60 and 50


def test_rows_without_a_time_count_in_their_order():
    (first,), (again,) = runs({0: 40.0}), runs({0: 60.0})
    assert list(build([{**first, "key": "f" * 16}, again]).lines["ap_box"]) == [60.0]


def test_a_seed_of_the_training_alone_is_another_configuration():
    base = {"seed": 0, "training": {"seed": 0}}
    assert configuration(base) != configuration({"seed": 0, "training": {"seed": 1}})
