"""ToMe on MAE against what its authors' code computes on weights filled by name, and plain files of MAE's fine-tuning."""

import pytest
import torch

from tests.helpers.goldens import filled, golden, imported, pictures
from tokenprune.errors import CheckpointMismatch
from tokenprune.zoo.load import built

NAME = "tome_mae_b_r16"
MERGING = {"selector", "treatment", "schedule"}


@pytest.fixture(scope="module")
def state():
    return filled(f"methods/dev/keys_{NAME}.json")


@pytest.mark.system
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_logits_sizes_and_owners_are_the_authors(execution, state, tmp_path):
    """Each token is pooled as often as tokens went into it; the authors' slots are in the order of ours."""
    numbers = golden(f"methods/dev/{NAME}.safetensors")
    model = built(imported(tmp_path, state, r=16), NAME)
    model.execution = execution
    with torch.no_grad():
        outputs = model.encode(pictures())
        logits = model.logits(outputs)
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    after = outputs.state
    for image in range(4):
        groups = {frozenset((after.owner[image] == owner).nonzero().flatten().tolist()) for owner in after.owner[image].unique()}
        theirs = numbers["owner"][image].long()
        assert groups == {frozenset(((theirs == slot).nonzero().flatten() - 1).tolist()) for slot in theirs[1:].unique()}
        assert sorted(after.mass[image][after.live[image]].tolist()) == sorted(numbers["size"][image, 1:].tolist())


def tiny(**more):
    """Return the keys of a tiny MAE classifier."""
    dim = 64
    state = {
        "patch_embed.proj.weight": torch.zeros(dim, 3, 16, 16),
        "pos_embed": torch.zeros(1, 5, dim),
        "cls_token": torch.zeros(1, 1, dim),
    }
    state |= {"blocks.0.attn.qkv.weight": torch.zeros(3 * dim, dim), "blocks.0.mlp.fc1.weight": torch.zeros(4 * dim, dim)}
    return {**state, "fc_norm.weight": torch.ones(dim), "head.weight": torch.zeros(7, dim), **more}


def test_without_merging_it_is_the_dense_model(tmp_path):
    found = imported(tmp_path, tiny(), r=0)
    assert not MERGING & set(found.settings) and found.settings["backbone"]["pool"] == "avg" and found.classes == 7
    assert set(imported(tmp_path, tiny(), r=8).settings) >= MERGING


def test_proportional_attention_is_off_unless_it_is_asked_for(tmp_path):
    assert imported(tmp_path, tiny(), r=1).settings["treatment"]["proportional"] is False
    assert imported(tmp_path, tiny(), r=1, prop_attn=True).settings["treatment"]["proportional"] is True


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "r is not given.*0 is the dense model"),
        ({"r": -1}, "r is -1; allowed: 0"),
        ({"r": 0.5}, "r is 0.5"),
        ({"rate": 1}, "no setting of it"),
    ],
    ids=["missing", "negative", "share", "unknown"],
)
def test_what_the_file_does_not_say_is_asked_for(given, words, tmp_path):
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, tiny(), **given)


def test_a_grid_that_is_no_square_is_refused(tmp_path):
    with pytest.raises(CheckpointMismatch, match="5 patches.*square"):
        imported(tmp_path, tiny(pos_embed=torch.zeros(1, 6, 64)), r=0)
