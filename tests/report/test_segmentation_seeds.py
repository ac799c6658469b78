"""Cropr Figure 5: what is said of several seeds of a segmentation run."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.errors import TokenPruneError
from tokenprune.registry import build
from tokenprune.runs.reports import Sweep


def segmented(label, seed, miou, speed, gain, treatment="last_layer_fusion"):
    cost = {"throughput_batch": [1, 8], "throughput_mean": [9.0, speed], "throughput_speedup": [0.5, gain], "throughput_sd": [0.0, 0.0]}
    metrics = {"miou": miou, "miou_se": 1.0}
    return {**row(label=label, treatment=treatment, seed=seed, task="segmentation", cost=cost), "metrics": metrics}


def test_medians_ranges_and_speed(tmp_path, capsys):
    rows = [segmented("Dense", s, m, 50.0 + s, 1.0, "none") for s, m in enumerate((56.0, 57.0, 50.0))]
    rows += [segmented("Cropr", s, m, 100.0, g) for s, (m, g) in enumerate(((55.5, 1.9), (58.0, 2.0), (55.0, 2.2)))]
    written = build("report", "segmentation_seeds")(Sweep("made_up", rows, tmp_path, tmp_path))
    assert written == ["segmentation_seeds.png", "segmentation_seeds.csv", "segmentation_seeds.md", "segmentation_seeds_points.csv"]
    assert all((tmp_path / name).stat().st_size for name in written)
    dense, cropr = pd.read_csv(tmp_path / "segmentation_seeds.csv").to_dict("records")
    assert (dense["miou_median"], dense["miou_min"], dense["miou_max"], dense["images_per_second"]) == (56.0, 50.0, 57.0, 51.0)
    assert (cropr["miou_median"], cropr["miou_minus_dense"], cropr["speedup"], cropr["seeds"]) == (55.5, -0.5, 2.0, 3)
    assert len(pd.read_csv(tmp_path / "segmentation_seeds_points.csv")) == 6
    line = "| Cropr | 3 | 55.5 | 55.0 | 58.0 | -0.5 | 100 | 2.00 |"
    assert line in (tmp_path / "segmentation_seeds.md").read_text() and "One seed" not in capsys.readouterr().out


def test_rows_without_throughput_take_single_images(tmp_path, capsys):
    plain = {**row(label="Dense", treatment="none", cost={"seconds_total": 0.02, "speedup_encoder": 1.0}), "metrics": {"miou": 40.0}}
    build("report", "segmentation_seeds")(Sweep("made_up", [plain], tmp_path, tmp_path))
    assert pd.read_csv(tmp_path / "segmentation_seeds.csv")["images_per_second"].tolist() == [50.0]
    assert "One seed a method: no spread." in capsys.readouterr().out


def test_rows_of_another_task_are_refused(tmp_path):
    with pytest.raises(TokenPruneError, match="no finished row has an mIoU; use task=segmentation"):
        build("report", "segmentation_seeds")(Sweep("made_up", [row()], tmp_path, tmp_path))
