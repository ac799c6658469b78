"""Files that hold two encoders: the teacher is taken and said to be; two that cannot be told apart are refused."""

import pytest
import torch

from tokenprune.backbones.vit import build_vit
from tokenprune.backbones.weights import load_backbone, load_vit
from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import read_weights
from tokenprune.utils.console import say_once

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def two(first, second):
    """Return the states of two encoders, each tensor of the first one 1, and of the second one 2, under these prefixes."""
    state = build_vit(SIZES).state_dict()
    return {
        f"{prefix}{key}": torch.full_like(value, number) for number, prefix in ((1, first), (2, second)) for key, value in state.items()
    }


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("student.backbone.", "teacher.backbone."),
        ("module.student.", "module.teacher."),
        ("encoder.", "encoder_ema."),
        ("encoder.", "target_encoder."),
    ],
)
def test_the_teacher_is_taken_whatever_the_order_of_the_keys(tmp_path, capsys, student, teacher, turned):
    state = two(student, teacher)
    torch.save(dict(reversed(state.items())) if turned else state, tmp_path / "dino.pth")
    say_once.cache_clear()
    vit = build_vit(SIZES, num_classes=3)
    notes = load_vit(vit, tmp_path / "dino.pth")
    assert float(vit.blocks[0].attn.qkv.weight.mean()) == 2.0
    assert any("the file holds 2 encoders (" in note and f"{teacher} is taken" in note for note in notes)
    assert "is taken" in capsys.readouterr().out


def test_mappings_of_a_student_and_a_teacher_are_read(tmp_path):
    """The form of a training run of DINO."""
    state, model = build_vit(SIZES).state_dict(), build_vit(SIZES)
    parts = {name: {f"backbone.{k}": torch.full_like(v, n) for k, v in state.items()} for n, name in ((1, "student"), (2, "teacher"))}
    torch.save({**parts, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "run.pth")
    assert {key.split(".")[0] for key in read_weights(tmp_path / "run.pth")} == {"student", "teacher"}
    load_backbone(model, tmp_path / "run.pth")
    assert float(model.patch_embed.proj.weight.mean()) == 2.0


def test_two_equal_encoders_are_refused_by_their_prefixes(tmp_path):
    torch.save(two("left.", "right."), tmp_path / "pair.pth")
    with pytest.raises(CheckpointMismatch, match="holds 2 encoders, whose keys begin with 'left.', 'right.'; allowed: one"):
        load_backbone(build_vit(SIZES), tmp_path / "pair.pth")


def test_an_average_beside_the_model_is_said(tmp_path, capsys):
    state = build_vit(SIZES).state_dict()
    torch.save({"model": state, "model_ema": state}, tmp_path / "deit.pth")
    assert read_weights(tmp_path / "deit.pth").keys() == state.keys()
    assert "deit.pth holds 'model' and an average of it, 'model_ema'; 'model' is taken" in capsys.readouterr().out
