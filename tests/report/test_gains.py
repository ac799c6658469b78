"""Gains over size, image and share: what is compared with what, and the numbers behind the figure."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.reports import Sweep


def timed(gmac, speedup, *overrides, top1=None, seed=0):
    config = resolve(compose(["scale=smoke", "task=classification", f"seed={seed}", *overrides]))
    metrics = {} if top1 is None else {"top1": top1, "top1_se": 2.0}
    cost = {"gmac_total": gmac, "throughput_batch": [1, 8], "throughput_mean": [9.0, 9.0], "throughput_speedup": [0.5, speedup]}
    about = {name: config[name].get("name") for name in ("treatment",)} | {"label": config["label"], "method": config["method"]}
    return {**row(**about, config=config, cost=cost, seed=seed, key=f"{gmac}{seed}{overrides}"), "metrics": metrics}


CROPR = ("method=cropr", "schedule=total", "schedule.multiple=1")


def test_each_size_of_image_has_its_own_dense_model(tmp_path, capsys):
    rows = [timed(g, None, f"data.side={side}", top1=50.0) for g, side in ((1.0, 64), (4.0, 128))]
    rows += [timed(g, s, *CROPR, f"data.side={side}", top1=t) for g, s, side, t in ((0.8, 1.1, 64, 48.0), (2.0, 1.7, 128, 49.0))]
    assert build("report", {"name": "gains", "axis": "side"})(Sweep("made_up", rows, tmp_path, tmp_path)) == ["gains.png", "gains.csv"]
    points = pd.read_csv(tmp_path / "gains.csv")
    assert points["x"].tolist() == [64, 128, 64, 128] and points["macs_ratio"].tolist() == [1, 1, 1.25, 2]
    assert points["top1_error"].tolist() == [2.0] * 4
    assert "Cropr at 64 1.10 (1.25 by GMAC), Cropr at 128 1.70 (2.00 by GMAC)" in capsys.readouterr().out


def test_over_the_share_there_is_one_dense_model_and_seeds_are_one_point(tmp_path):
    rows = [timed(1.0, None, top1=60.0)]
    rows += [timed(0.5, 1.5 + seed, *CROPR, "schedule.total=0.75", top1=40.0 + 20 * seed, seed=seed) for seed in (0, 1)]
    build("report", {"name": "gains", "axis": "total"})(Sweep("made_up", rows, tmp_path, tmp_path))
    dense, pruned = pd.read_csv(tmp_path / "gains.csv").to_dict("records")
    assert (pruned["seeds"], pruned["speedup"], pruned["top1"], pruned["x"], pruned["macs_ratio"]) == (2, 2.0, 50.0, 0.75, 2.0)
    assert pruned["top1_error"] == pytest.approx(200**0.5) and dense["dense"]


def test_a_pruned_row_without_its_dense_one_is_named(tmp_path):
    with pytest.raises(TokenPruneError, match="no dense row at side 64"):
        build("report", {"name": "gains", "axis": "side"})(Sweep("made_up", [timed(1, 1, *CROPR, "data.side=64")], tmp_path, tmp_path))


def test_unknown_axes_are_named():
    with pytest.raises(InvalidConfig, match="axis is 'depth'; allowed: size, side, total"):
        build("report", {"name": "gains", "axis": "depth"})
