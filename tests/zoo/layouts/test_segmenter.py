"""Segmenter's files with the linear decoder against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import filled, golden, imported, pictures
from tests.zoo.layouts.test_mae import tiny
from tokenprune.errors import CheckpointMismatch
from tokenprune.tasks.segmentation.model import Segmenter
from tokenprune.zoo.load import built

NAME = "segmenter_linear_t"
VARIANT = "net_kwargs:\n  d_model: 64\n  n_heads: 2\n  n_cls: 5\n  normalization: vit\n  decoder: {name: linear}\n"


def test_logits_and_maps_are_the_authors(tmp_path):
    state, numbers = filled(f"methods/dev/keys_{NAME}.json"), golden(f"methods/dev/{NAME}.safetensors")
    found = imported(tmp_path, state, "checkpoint.pth")
    model, images = built(found, NAME), pictures()
    assert isinstance(model, Segmenter) and found.classes == 150 and model.pruned.prefix_tokens == 2
    with torch.no_grad():
        outputs = model.pruned.encode(images)
        grid = model.label_logits(outputs).transpose(1, 2).unflatten(2, (14, 14))
        maps = model(images).argmax(1)[:, ::4, ::4]
    torch.testing.assert_close(grid[:2], numbers["logits"], atol=1e-5, rtol=0)
    assert torch.equal(maps, numbers["argmax_full"].long())
    of_prefix = [
        outputs.prefix[:, i] @ state[f"encoder.{head}.weight"].T + state[f"encoder.{head}.bias"]
        for i, head in enumerate(("head", "head_dist"))
    ]
    torch.testing.assert_close(sum(of_prefix) / 2, numbers["encoder_cls_head"], atol=2e-5, rtol=0)
    assert set(found.left_out) == {"encoder.head.", "encoder.head_dist."} and not found.view


def tiny_segmenter(decoder="head.weight", **encoder):
    """Return the keys of a tiny Segmenter of five classes."""
    inside = {**tiny(), "norm.weight": torch.ones(64), **encoder}
    del inside["fc_norm.weight"]
    return {**{f"encoder.{key}": value for key, value in inside.items()}, f"decoder.{decoder}": torch.zeros(5, 64)}


def test_a_plain_vit_sees_pixels_about_one_half(tmp_path):
    found = imported(tmp_path, tiny_segmenter())
    assert found.view == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} and found.settings["backbone"]["registers"] == 0
    assert found.settings["backbone"]["norm_eps"] == found.settings["backbone"]["final_norm_eps"] == 1e-5
    distilled = imported(tmp_path, tiny_segmenter(dist_token=torch.zeros(1, 1, 64), pos_embed=torch.zeros(1, 6, 64)))
    assert not distilled.view and distilled.settings["backbone"]["registers"] == 1 and "pruned.backbone.reg_token" in distilled.state


def test_what_lies_beside_the_file_is_read(tmp_path):
    (tmp_path / "variant.yml").write_text(VARIANT)
    found = imported(tmp_path, tiny_segmenter(dist_token=torch.zeros(1, 1, 64), pos_embed=torch.zeros(1, 6, 64)))
    assert found.settings["backbone"]["num_heads"] == 2 and found.view["std"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (VARIANT.replace("n_cls: 5", "n_cls: 150"), "variant.yml beside best.pth is of another model .n_cls is 150, the weights have 5"),
        ("net_kwargs: [", "variant.yml beside the checkpoint cannot be read"),
    ],
    ids=["other", "broken"],
)
def test_a_wrong_file_beside_it_is_an_error(variant, words, tmp_path):
    (tmp_path / "variant.yml").write_text(variant)
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, tiny_segmenter())


def test_the_mask_transformer_is_refused_by_name_and_reason(tmp_path):
    with pytest.raises(CheckpointMismatch, match="Segmenter with the mask transformer .decoder.cls_emb.: .*Allowed: .*linear"):
        imported(tmp_path, tiny_segmenter("cls_emb"))
