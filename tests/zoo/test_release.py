"""Opening published files: which part of them counts, and that damaged or dangerous ones are refused in one clear error."""

import os

import numpy
import pytest
import torch

from tests.helpers.releases import saved
from tokenprune.errors import CheckpointMismatch
from tokenprune.zoo.release import read_release

STATE = {"a.weight": torch.ones(2)}
AVERAGE = {"a.weight": torch.zeros(2)}


def test_the_average_counts_where_the_file_says_that_it_is_better(tmp_path):
    path = saved(tmp_path / "best.pth", STATE, model_ema=AVERAGE, ema_best=True)
    assert read_release(path).part == "model_ema" and read_release(path).state["a.weight"].sum() == 0
    path = saved(tmp_path / "last.pth", STATE, model_ema=AVERAGE, ema_best=False)
    assert read_release(path).part == "model" and read_release(path).state["a.weight"].sum() == 2


def test_an_average_alone_is_taken(tmp_path):
    torch.save({"model_ema": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pth")
    release = read_release(tmp_path / "a.pth")
    assert release.part == "model_ema" and release.state["a"].tolist() == [1, 1]


@pytest.mark.parametrize("ema_best", [numpy.bool_(True), numpy.float64(1.0)])
def test_numpy_scalars_are_read_by_name(tmp_path, ema_best):
    release = read_release(saved(tmp_path / "best.pth", STATE, model_ema=AVERAGE, ema_best=ema_best, best=numpy.float32(79.4)))
    assert release.part == "model_ema" and release.args == {"lr": 0.1}


def test_a_prefix_of_data_parallel_training_is_stripped(tmp_path):
    path = tmp_path / "parallel.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in STATE.items()}, "meta": {"epoch": 6}}, path)
    assert list(read_release(path).state) == ["a.weight"] and read_release(path).meta == {"epoch": 6}


class Harmful:
    def __reduce__(self):
        return os.system, ("echo harm",)


@pytest.mark.parametrize("content", [{"model": STATE, "hook": Harmful()}, [1, 2], {"model": {}}, {"epoch": 3}])
def test_files_without_plain_weights_are_refused(tmp_path, capfd, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointMismatch, match="x.pth"):
        read_release(tmp_path / "x.pth")
    assert "harm" not in capfd.readouterr().out


def test_a_truncated_file_is_named(tmp_path):
    path = saved(tmp_path / "x.pth", STATE)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointMismatch, match="damaged"):
        read_release(path)
