"""The content of a file says its format, and a message says what is wrong with it."""

import pytest
import torch
from safetensors.torch import save_file

from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import read_metadata, read_plain, read_weights

WEIGHTS = {"a": torch.arange(3.0)}


def test_endings_do_not_matter(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.pth", metadata={"run": "mine"})
    torch.save(WEIGHTS, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert torch.equal(read_weights(tmp_path / name)["a"], WEIGHTS["a"])
    assert read_metadata(tmp_path / "a.pth") == {"run": "mine"} and read_metadata(tmp_path / "b.safetensors") == {}


def test_a_folder_is_told(tmp_path):
    with pytest.raises(CheckpointMismatch, match="is a folder; allowed: the file of weights in it"):
        read_plain(tmp_path)


class Thing:
    """Something that only code can make."""


def test_what_is_refused_is_named(tmp_path):
    torch.save({"model": WEIGHTS, "thing": Thing()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatch, match=r"it holds tests\.utils\.test_checkpoint_formats\.Thing.*no code is run"):
        read_plain(tmp_path / "a.pth")
