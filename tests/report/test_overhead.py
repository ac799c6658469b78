"""Speeds in terms of a random selector's: which batch, which ratio, what cannot be compared."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import TokenPruneError
from tokenprune.registry import build
from tokenprune.runs.reports import Sweep


def timed(label, method, speeds, speedups, selector=0.0, seed=0):
    sizes = [1, 8, 32][: len(speeds)]
    cost = {"throughput_batch": sizes, "throughput_mean": speeds, "throughput_speedup": speedups, "gmac_selector": selector}
    return row(label=label, method=method, cost=cost, seed=seed, key=f"{label}{seed}")


def drawn(rows, folder):
    return build("report", {"name": "overhead"})(Sweep("made_up", rows, folder, folder))


def test_ratios_are_of_speed_ups_at_the_largest_batch_that_fitted(tmp_path, capsys):
    rows = [
        timed("Dense", "dense", [4.0, 10.0, None], [1.0, 1.0, None]),
        timed("Random", "random", [9.0, 30.0, None], [1.5, 2.0, None]),
        timed("Cropr, all queries", "cropr", [6.0, 16.0, None], [1.2, 1.5, None], selector=13.9),
        timed("Cropr", "cropr", [9.0, 20.0, None], [1.5, 1.9, None], selector=0.014, seed=0),
        timed("Cropr", "cropr", [9.0, 22.0, None], [1.5, 2.1, None], selector=0.014, seed=1),
        timed("Too large", "svit", [None], [None]),
    ]
    assert drawn(rows, tmp_path) == ["overhead.png", "overhead.csv"]
    points = pd.read_csv(tmp_path / "overhead.csv")
    assert points["name"].tolist() == ["Dense", "Random", "Cropr, all queries", "Cropr"]
    assert points["ratio"].tolist() == [0.5, 1.0, 0.75, 1.0] and points["images_per_second"].tolist() == [10, 30, 16, 21]
    assert set(points["batch"]) == {8} and points["rows"].tolist() == [1, 1, 1, 2]
    assert points["gmac_selector"].tolist() == [0, 0, 13.9, 0.014]
    assert "Dense 0.500, Cropr, all queries 0.750, Cropr 1.000" in capsys.readouterr().out


def test_without_a_timed_random_row_there_is_nothing_to_compare_with(tmp_path):
    for random in ([], [timed("Random", "random", [None], [None])]):
        with pytest.raises(TokenPruneError, match="no timed row of method random.*sweep over method=random"):
            drawn([timed("Cropr", "cropr", [5.0], [2.0]), *random], tmp_path)


def test_costs_need_not_have_been_measured(tmp_path):
    rows = [timed("Random", "random", [2.0], [1.0]), timed("Cropr", "cropr", [1.0], [0.5])]
    for one in rows:
        one["cost"].pop("gmac_selector")
    drawn(rows, tmp_path)
    points = pd.read_csv(tmp_path / "overhead.csv")
    assert points["gmac_selector"].isna().all() and points["ratio"].tolist() == [1.0, 0.5]
