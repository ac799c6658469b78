"""DynamicViT's files against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import built, filled, golden, imported, pictures
from tokenprune.errors import CheckpointMismatch


def kept_in(model, images):
    """Return {block: (B,K) positions that the block attends to, ascending}, and the logits."""
    found = {}
    model.watch = lambda block, state: found.update({block: state.index.sort(1).values})
    with torch.no_grad():
        return found, model(images)


@pytest.mark.parametrize("name", ["dynamicvit_deit_s", "dynamicvit_deit_256"])
def test_logits_and_kept_tokens_are_the_authors(name, tmp_path):
    numbers = golden(f"methods/dev/{name}.safetensors")
    model = built(imported(tmp_path, filled(f"methods/dev/keys_{name}.json")))
    kept, logits = kept_in(model, pictures())
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    for block in (3, 6, 9):
        assert torch.equal(kept[block], numbers[f"kept_patch_block{block}"].long().sort(1).values)


def some_state(**more):
    """Return keys of a tiny DynamicViT; shapes are all that matters."""
    dim = 64
    state = {"patch_embed.proj.weight": torch.zeros(dim, 3, 16, 16), "pos_embed": torch.zeros(1, 5, dim)}
    state |= {"cls_token": torch.zeros(1, 1, dim), "blocks.0.attn.qkv.weight": torch.zeros(3 * dim, dim)}
    state |= {"blocks.0.mlp.fc1.weight": torch.zeros(4 * dim, dim), "head.weight": torch.zeros(7, dim)}
    return state | {f"score_predictor.{k}.in_conv.0.weight": torch.zeros(dim) for k in range(3)} | more


def test_what_the_file_says_of_rates_and_blocks_is_taken(tmp_path):
    found = imported(tmp_path, some_state(), args={"base_rate": 0.5, "pruning_loc": [2, 4, 8]})
    assert found.settings["schedule"]["keep_rate"] == 0.5 and found.settings["schedule"]["blocks"] == [2, 4, 8]
    assert "selectors.8.gate.into.0.weight" in found.state and found.classes == 7
    assert imported(tmp_path, some_state(), keep_rate=0.9).settings["schedule"]["keep_rate"] == 0.9


@pytest.mark.parametrize(
    ("more", "given", "words"),
    [
        ({"patch_embed.conv1.weight": torch.zeros(1)}, {}, "on LV-ViT, which timm does not have"),
        ({"score_predictor.3.in_conv.0.weight": torch.zeros(1)}, {}, "predictors"),
        ({}, {"keep_rat": 0.5}, "no setting"),
    ],
    ids=["lvvit", "predictors", "setting"],
)
def test_other_files_are_refused_by_reason(more, given, words, tmp_path):
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, some_state(**more), **given)


def test_a_backbone_without_deits_blocks_is_refused(tmp_path):
    state = {key: value for key, value in some_state().items() if not key.startswith("blocks.0")}
    with pytest.raises(CheckpointMismatch, match="without DeiT's blocks"):
        imported(tmp_path, state)
