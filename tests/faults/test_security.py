"""Nothing that is read runs code, and nothing leaves its folder (SECURITY.md)."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.test_loop import batches, loss, new_net, recipe
from tokenprune.data.readers import open_source
from tokenprune.errors import CheckpointMismatch, InvalidConfig, TokenPruneError
from tokenprune.runs.launchers import make_private
from tokenprune.training.loop import fit
from tokenprune.utils.checkpoints import load_dense, read_weights


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(params=["torch.save", "pickle", "nested", "old torch.save"])
def bomb(request, tmp_path):
    """Return (write a bomb to a path, the file that it makes); the bomb works where it is unpickled."""
    mark = tmp_path / "went off"

    def write(path):
        content = {"model": {"w": torch.ones(2), "x": Bomb(mark)}} if request.param == "nested" else Bomb(mark)
        if request.param == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=request.param != "old torch.save")

    write(tmp_path / "proof")
    if request.param == "pickle":
        pickle.loads((tmp_path / "proof").read_bytes())
    else:
        torch.load(tmp_path / "proof", weights_only=False)
    assert mark.exists()
    mark.unlink()
    return write, mark


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt", "safetensors", "npz"])
def test_weights_run_no_code(bomb, tmp_path, ending):
    write, mark = bomb
    path = tmp_path / f"weights.{ending}"
    write(path)
    for read in (read_weights, lambda file: load_dense(nn.Linear(2, 2), file)):
        with pytest.raises(CheckpointMismatch, match=f"weights.{ending} is"):
            read(path)
    assert not mark.exists()


def test_a_training_that_is_resumed_runs_no_code(bomb, tmp_path):
    write, mark = bomb
    fit(new_net(), batches, loss, recipe(checkpoint_every=1), tmp_path / "run")
    (saved,) = [path for path in (tmp_path / "run").iterdir() if path.suffix == ".pt"]
    write(saved)
    with pytest.raises(CheckpointMismatch, match=saved.name):
        fit(new_net(), batches, loss, recipe(checkpoint_every=1), tmp_path / "run")
    assert not mark.exists()


def test_a_damaged_checkpoint_of_a_training_is_named(tmp_path):
    fit(new_net(), batches, loss, recipe(checkpoint_every=1), tmp_path)
    (saved,) = [path for path in tmp_path.iterdir() if path.suffix == ".pt"]
    saved.write_bytes(saved.read_bytes()[:200])
    with pytest.raises(CheckpointMismatch, match=f"{saved.name} is damaged"):
        fit(new_net(), batches, loss, recipe(checkpoint_every=1), tmp_path)


def test_members_of_an_archive_stay_in_it(tmp_path):
    root = tmp_path / "inner" / "images.zip"
    root.parent.mkdir()
    with zipfile.ZipFile(root, "w") as archive:
        archive.writestr("../../evil.png", b"no picture")
        archive.writestr("/evil/evil.png", b"no picture")
    before = sorted(tmp_path.rglob("*"))
    try:
        reader = open_source(root)
        [reader[i][0].read() for i in range(len(reader))]
    except TokenPruneError:
        pass
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path.parent / "evil.png").exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no user ids")
def test_jobs_are_handed_over_in_a_folder_of_their_owner(tmp_path, monkeypatch):
    make_private(tmp_path / "jobs")
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: (tmp_path / "jobs").stat().st_uid + 1)
    with pytest.raises(InvalidConfig, match="belongs to another user"):
        make_private(tmp_path / "jobs")
