"""Tracking: curves, shares, metrics and pictures of a row, read back with TensorBoard's own reader; keys and numbers do not change."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from tests.helpers.fakes import cli  # noqa: F401
from tokenprune.errors import InvalidConfig, MissingDependency
from tokenprune.runs import tracking
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.row import run_row
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.pictures import Picture

SMALL = ("task=classification", "method=svit", "scale=smoke", "training.iterations=6", "init=scratch", "measure=[accuracy,cost]")


def run_of(tmp_path, *more):
    return resolve(compose([*SMALL, f"results_dir={tmp_path}", *more]))


def read_back(folder):
    """Return TensorBoard's own view of the one run in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    (run,) = folder.iterdir()
    events = accumulator.EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return run, events


def test_tensorboard_reads_back_what_a_row_was(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'tokenprune[tracking]'")
    run = run_of(tmp_path, "tracking=tensorboard")
    validate(run)
    row = run_row(run)
    assert row["status"] == "ok", row["reason"]
    place, events = read_back(tmp_path / "tracking")
    assert place.name.endswith(row["key"]) and place.name.startswith("SViT-reactivate-0.7-classification-seed-0")
    tags = events.Tags()
    losses = events.Scalars("loss/total")
    assert [e.step for e in losses] == [1, 2, 3, 4, 5, 6] and all(np.isfinite(e.value) for e in losses)
    parts = [tag for tag in tags["scalars"] if tag.startswith("loss/") and tag != "loss/total"]
    assert "loss/cls" in parts and "loss/ratio" in parts
    assert losses[0].value == pytest.approx(sum(events.Scalars(tag)[0].value for tag in parts), rel=1e-5)
    assert events.Scalars("learning_rate/0")[-1].value >= 0 and events.Scalars("images_per_second")[0].value > 0
    kept = [tag for tag in tags["scalars"] if tag.startswith("kept_share/")]
    depth = len(row["cost"]["kept_per_block"])
    assert len(kept) == depth and events.Scalars("kept_share/block_00")[0].value == 1
    ends = [events.Scalars(f"kept_share_at_the_end/block_{number:02d}")[0].value for number in range(depth)]
    assert ends == pytest.approx(row["cost"]["kept_per_block"], abs=1e-6)
    assert events.Scalars("metrics/top1")[0].value == pytest.approx(row["metrics"]["top1"])
    assert events.Scalars("cost/gmac_total")[0].value == pytest.approx(row["cost"]["gmac_total"], rel=1e-6)
    pictures = [tag for tag in tags["images"] if tag.startswith("tokens_of_the_last_block/")]
    assert pictures and events.Images(pictures[0])[0].width == run.data["side"]
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"tracking": "tensorboard"' in text


@pytest.mark.system
def test_keys_and_numbers_do_not_depend_on_it(tmp_path):
    runs = [run_of(tmp_path / name, f"tracking={name}") for name in ("none", "tensorboard")]
    assert run_key(runs[0]) == run_key(runs[1])
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    rows = [run_row(run) for run in runs]
    assert rows[0]["metrics"] == rows[1]["metrics"] and rows[0]["cost"]["kept_per_block"] == rows[1]["cost"]["kept_per_block"]
    assert not (tmp_path / "none" / "tracking").exists()


def test_a_row_that_is_resumed_goes_on_in_its_files(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    makes = []

    def make(start):
        makes.append(start)
        return tracking.TensorBoard(tmp_path / "tracking" / "row", start)

    for first, last in ((0, 4), (2, 6)):  # killed after four steps; the last checkpoint has two
        tracker = tracking.Tracker(make, 6, 8)
        for iteration in range(first, last):
            tracker.step(iteration, {"loss_cls": float(10 * first + iteration)}, [0.1])
        tracker.close()
    assert makes == [0, 2]
    _, events = read_back(tmp_path / "tracking")
    assert [(e.step, e.value) for e in events.Scalars("loss/cls")] == [(1, 0), (2, 1), (3, 22), (4, 23), (5, 24), (6, 25)]


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.seen, self.closed = [], False

    def scalars(self, values, step):
        self.seen.append((step, dict(values)))

    def text(self, name, text):
        self.seen.append((name, text))

    def image(self, name, pixels, step):
        self.seen.append((name, pixels))

    def close(self):
        self.closed = True


def test_long_runs_have_about_five_hundred_points_of_means():
    sink = Recorder()
    tracker = tracking.Tracker(lambda start: sink, 1003, 4)
    for iteration in range(1003):
        tracker.step(iteration, {"loss_a": float(iteration), "loss_b": 1.0}, [0.5, 0.25])
    tracker.close()
    assert len(sink.seen) == 502 and sink.seen[-1][0] == 1003 and sink.closed
    step, values = sink.seen[1]
    assert (step, values["loss/a"], values["loss/total"], values["learning_rate/1"]) == (4, 2.5, 3.5, 0.25)


def test_no_failure_of_a_tracker_ends_a_row(capsys):
    class Full(Recorder):
        def scalars(self, values, step):
            raise OSError("no space left")

    tracker = tracking.Tracker(lambda start: Full(), 2, 4)
    for iteration in range(2):
        tracker.step(iteration, {"loss_cls": 1.0}, [0.1])
    tracker.end({"status": "ok"})
    tracker.close()
    said = capsys.readouterr().err
    assert said.count("tracking stopped: OSError: no space left; the row goes on") == 1


def test_wandb_is_given_the_same_and_stays_offline(tmp_path, monkeypatch):
    """With a stand-in of wandb: what it is called with."""
    calls, sink = [], Recorder()
    run = types.SimpleNamespace(log=lambda values, step: sink.scalars(values, step), summary={}, finish=sink.close)
    fake = types.SimpleNamespace(init=lambda **given: (calls.append(given), run)[1], Image=lambda pixels: ("image", pixels.shape))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = run_of(tmp_path, "tracking=wandb")
    tracker = tracking.tracker_of(config, "abc", "SViT preserve 0.7 (classification, seed 0)")
    tracker.step(0, {"loss_cls": 2.0}, [0.1])
    picture = Picture(3, np.full((8, 8, 3), 7, np.uint8), torch.tensor([[[True, False], [True, True]]]), 4)
    tracker.end({"status": "ok", "metrics": {"top1": 50.0}, "notes": ["a note"], "config": {}}, [picture])
    tracker.close()
    (given,) = calls
    assert (given["mode"], given["id"], given["project"]) == ("offline", "abc", "tokenprune") and given["dir"].startswith(str(tmp_path))
    json.dumps(given["config"])
    assert sink.seen[0][0] == 1 and sink.seen[0][1]["loss/cls"] == 2.0
    assert any(values.get("metrics/top1") == 50.0 for _, values in sink.seen)
    assert any(values == {"tokens_of_the_last_block/3": ("image", (8, 8, 3))} for _, values in sink.seen)
    assert run.summary["notes"].endswith("a note") and sink.closed


def test_unused_patches_fade():
    pixels = np.full((7, 8, 3), 55, np.uint8)
    found = tracking.faded(Picture(0, pixels, torch.tensor([[[True, False], [False, True]]]), 4))
    assert (found[:4, :4] == 55).all() and (found[:4, 4:] == 205).all() and (found[4:, :4] == 205).all() and (found[4:, 4:] == 55).all()


def test_what_is_no_tracker_or_not_installed_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InvalidConfig, match="tracking is 'mlflow'; allowed: none, tensorboard, wandb"):
        validate(run_of(tmp_path, "tracking=mlflow"))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"needs tensorboard, which is not installed: pip install 'tokenprune\[tracking"):
        validate(run_of(tmp_path, "tracking=tensorboard"))
    validate(run_of(tmp_path, "tracking=none"))
