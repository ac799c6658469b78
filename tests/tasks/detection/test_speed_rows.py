"""Rows of time and cost alone: the speed table, from the command line."""

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.measure import speed
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate

FEW = ["speed_repeats=1", "speed_warmup=0", "speed_images=1", "cost_images=1"]
ROWS = list(rows_of("table5_sota"))


class Operations(TorchDispatchMode):
    """Counts what a call does: a clock that no other process moves."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(call: partial) -> float:
    with Operations() as seen:
        call()
    return seen.count / 1e4


def test_speed_rows_are_timed_in_three_parts_and_not_judged(cli, monkeypatch):  # noqa: F811
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    monkeypatch.setattr(speed, "_thread_seconds", operations)
    few = [f"task.evaluate.{setting}" for setting in FEW]
    code, out, err = cli(
        "+experiment=table5_speed", "+rows/table5_sota=00_dense,03_ats_remove,06_svit", "scale=smoke", "data.train_size=1", *few
    )
    assert (code, err) == (0, "") and "FPS backbone" in out and "AP" not in out.split("\n")[6]
    rows = cli.rows()
    assert {row["label"]: row["status"] for row in rows} == {"Dense": "ok", "ATS": "ok", "SViT": "ok"}
    for row in rows:
        assert row["metrics"] == {} and 0 < row["cost"]["seconds_encoder"] < row["cost"]["seconds_backbone"] < row["cost"]["seconds_total"]
        assert row["cost"]["speedup_encoder"] > 0 and row["notes"][0] == "starts from random weights"
        assert not (cli.folder / "results/rows" / row["key"] / "model.safetensors").exists()
    kept = {row["label"]: row["cost"]["kept_share"] for row in rows}
    assert kept["Dense"] == 1 > kept["ATS"] and kept["SViT"] == pytest.approx(0.633, abs=0.01)  # calibrated on the picture that is timed
    assert sorted(p.name for p in cli.tables().iterdir()) == ["sweep.json", "table.csv", "table.md", "table.tex"]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_valid_at_the_papers_size_without_a_data_set(row):
    config = resolve(compose(["+experiment=table5_speed", f"+rows/table5_sota={row}"]))
    words = validate(config)
    assert words.startswith("dense" if row == "00_dense" else "4200 positions") and config["scale"] == "paper"


def test_a_speed_row_has_a_key_of_its_own_and_other_rows_keep_theirs():
    config = resolve(compose(["method=evit", "scale=smoke"]))
    speedy = {**config, "measure": ["cost"]}
    assert run_key(speedy) != run_key(config) == run_key({k: v for k, v in config.items() if k != "measure"})


def test_a_device_without_memory_is_a_row(cli, fake, monkeypatch):  # noqa: F811
    def full(self, model, cfg):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(fake, "cost", full)
    code, _, err = cli("-m", *TINY, "method=evit", "init=scratch", "training.iterations=0", "measure=[cost]")
    (row,) = cli.rows()
    assert code == 3 and row["status"] == "oom" and "CUDA out of memory" in err


def test_accuracy_alone(cli, fake, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "cost", None)
    code, out, _ = cli(*TINY, "init=scratch", "measure=[accuracy]")
    assert code == 0 and "box AP 40.0" in out and "cost not measured; speed not measured" in out
    assert cli.rows()[0]["cost"] == {}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["measure=[speed]"], "measure is ['speed']; allowed: [accuracy, cost] or one of them"),
        (["measure=[]"], "measure is []; allowed"),
        (["data=unlabelled"], "data=unlabelled has no labels to judge by; use measure=[cost]"),
    ],
)
def test_what_cannot_be_measured_is_refused(cli, arguments, words):  # noqa: F811
    code, _, err = cli("scale=smoke", *arguments)
    assert code == 2 and words in err


@pytest.mark.parametrize(
    "setting, words",
    [
        ({"speed_dtype": "int8"}, "speed_dtype is 'int8', allowed are float32, bfloat16, float16"),
        ({"speed_repeats": 0}, "speed_repeats is 0"),
        ({"speed_warmup": -1}, "speed_warmup is -1"),
    ],
)
def test_impossible_speed_settings_are_refused(setting, words):
    from tokenprune.errors import InvalidConfig
    from tokenprune.tasks.detection.settings import read_task

    with pytest.raises(InvalidConfig, match=words):
        read_task({"evaluate": setting})


def test_busy_heads_find_as_many_objects_as_they_may(config):
    from tokenprune.registry import get
    from tokenprune.tasks.detection.evaluate import busy

    torch.manual_seed(0)
    heads = {"score": 0.2, "detections": 12, "nms": 0.9}  # an untrained head says 1/9 everywhere
    cfg = config(task={"heads": heads, "pyramid": {}, "detector": "cascade"})
    model = get("task", "detection")().build_model(cfg).eval()
    record, before = {"image": torch.rand(3, 64, 64) * 255, "height": 64, "width": 64}, model.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    with torch.no_grad():
        assert len(model([record])[0]["instances"]) == 0
        with busy(model):
            found = model([record])[0]["instances"]
    assert len(found) == 12 and set(found.pred_classes.tolist()) == {0} and math.isclose(found.scores.min().item(), 1, abs_tol=0.05)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
