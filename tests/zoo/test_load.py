"""`tokenprune.load`, `prune(init=FILE)` and conversions: one line from a published file to the model, and clear errors."""

import json

import pytest
import timm
import torch

import tokenprune
from tests.helpers.releases import SIZES, mae_state, saved
from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import read_weights, save_weights
from tokenprune.zoo.convert import to_timm, to_tokenprune
from tokenprune.zoo.layout import Imported
from tokenprune.zoo.load import load_into, read, save

IMAGES = torch.linspace(-1, 1, 2 * 3 * 48 * 48).reshape(2, 3, 48, 48)


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path / "mae.pth", mae_state())


def test_a_file_becomes_the_pruned_model(file):
    model = tokenprune.load(file, r=3)
    assert not model.training and model.selectors.keys() == {"0", "1", "2", "3"}
    assert model(IMAGES).shape == (2, 5)
    dense = tokenprune.load(file, r=0)
    assert torch.equal(dense(IMAGES), dense.backbone(IMAGES))


def test_a_setting_that_the_file_does_not_say_is_asked_by_name(file):
    with pytest.raises(CheckpointMismatch, match="r is not given.*number of tokens"):
        tokenprune.load(file)
    with pytest.raises(CheckpointMismatch, match="'keep' is no setting"):
        tokenprune.load(file, r=3, keep=0.5)


def test_every_missing_and_left_over_key_is_named(tmp_path):
    state = mae_state()
    del state["blocks.0.attn.qkv.bias"], state["head.bias"]
    with pytest.raises(CheckpointMismatch, match="odd.pth.*missing backbone.blocks.0.attn.qkv.bias.*missing backbone.head.bias"):
        tokenprune.load(saved(tmp_path / "odd.pth", state), r=3)
    with pytest.raises(CheckpointMismatch, match="odd.pth.*a plain ViT has no blocks.0.attn.other"):
        tokenprune.load(saved(tmp_path / "odd.pth", {**mae_state(), "blocks.0.attn.other": torch.ones(1)}), r=3)


def test_a_file_of_no_layout_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"no known layout: 1 keys, the first are conv1.weight. Known: .*mae"):
        tokenprune.load(saved(tmp_path / "resnet.pth", {"conv1.weight": torch.ones(1)}))


def test_a_converted_file_needs_no_settings(file, tmp_path):
    out = tmp_path / "new.safetensors"
    to_tokenprune(read(file, {"r": 3}), file, out)
    assert torch.equal(tokenprune.load(out)(IMAGES), tokenprune.load(file, r=3)(IMAGES))
    with pytest.raises(CheckpointMismatch, match="says all settings itself; leave out r"):
        tokenprune.load(out, r=3)


def test_a_file_for_timm_loads_into_timm(file, tmp_path):
    from safetensors.torch import load_file

    out = tmp_path / "vit.safetensors"
    to_timm(read(file, {"r": 0}), file, out)
    sizes = {**SIZES, "num_classes": 5, "global_pool": "avg"}
    vit = timm.models.vision_transformer.VisionTransformer(**sizes)
    vit.load_state_dict(load_file(out))
    assert torch.allclose(vit.eval()(IMAGES), tokenprune.load(file, r=0)(IMAGES), atol=1e-6)
    with pytest.raises(CheckpointMismatch, match=f"holds the encoder of {file.name} and not its method; convert that file with --to tok"):
        tokenprune.load(out)


def test_weights_of_a_row_are_loaded_with_the_settings_beside_them(tmp_path):
    from tokenprune.utils.checkpoints import save_weights

    model = tokenprune.prune(
        timm.models.vision_transformer.VisionTransformer(**SIZES, num_classes=3), "dynamicvit", schedule={"blocks": [1, 2]}
    )
    model.eval()
    config = {
        "task": {"name": "classification"},
        "backbone": {"name": "small", **SIZES},
        "selector": {"name": "dynamicvit"},
        "treatment": {"name": "remove"},
        "schedule": {"name": "stages", "blocks": [1, 2]},
        "cls": "learned",
        "execution": "auto",
    }
    save_weights(tmp_path / "model.safetensors", model, metadata={"key": "0" * 16, "class_names": json.dumps(["a", "b", "c"])})
    (tmp_path / "result.json").write_text(json.dumps({"config": config}))
    assert torch.equal(tokenprune.load(tmp_path / "model.safetensors")(IMAGES), model(IMAGES))


def test_prune_takes_a_plain_file(file):
    vit = timm.models.vision_transformer.VisionTransformer(**SIZES, num_classes=5, global_pool="avg")
    pruned = tokenprune.prune(vit, "tome", schedule={"name": "per_block", "remove": 3, "start": 0}, init=file)
    assert torch.equal(pruned.backbone.fc_norm.weight, mae_state()["fc_norm.weight"])
    assert torch.equal(pruned.backbone.blocks[1].attn.qkv.weight, mae_state()["blocks.1.attn.qkv.weight"])


def test_plain_files_are_left_to_the_reader_of_plain_files(file):
    model = tokenprune.load(file, r=3)
    assert load_into(model, file, {"task": {"name": "classification"}, "selector": {"name": "tome"}}) is None


def saved_kmedoids(path, **more):
    """Write a file whose average is the better one, as TokenReduction saves it; its keys are plain."""
    vit = timm.models.vision_transformer.VisionTransformer(**SIZES, num_classes=5)
    torch.manual_seed(3)
    good = {key: torch.randn_like(value) for key, value in vit.state_dict().items()}
    torch.save({"model": {key: value + 1 for key, value in good.items()}, "model_ema": good, "ema_best": True, **more}, path)
    return vit, good


def test_the_better_average_counts_for_readers_of_plain_files_too(tmp_path):
    vit, good = saved_kmedoids(tmp_path / "best.pth")
    pruned = tokenprune.prune(vit, "topk", schedule={"name": "stages", "blocks": [1, 2]}, init=tmp_path / "best.pth")
    assert torch.equal(pruned.backbone.head.weight, good["head.weight"])
    assert torch.equal(read_weights(tmp_path / "best.pth")["cls_token"], good["cls_token"])


def test_a_converted_file_starts_a_row_with_its_selectors(tmp_path):
    from tokenprune.runs.row import _load_any

    plan = {"name": "stages", "blocks": [1, 2]}
    vit = timm.models.vision_transformer.VisionTransformer(**SIZES, num_classes=5)
    torch.manual_seed(4)
    model = tokenprune.prune(vit, "dynamicvit", "remove", plan)
    for value in model.state_dict().values():
        value.copy_(torch.randn_like(value)) if value.is_floating_point() else None
    settings = {"task": {"name": "classification"}, "backbone": {"name": "small", **SIZES}, "selector": {"name": "dynamicvit"}}
    settings |= {"treatment": {"name": "remove"}, "schedule": plan}
    save(tmp_path / "c.safetensors", Imported(settings, model.state_dict(), 5))
    fresh = tokenprune.prune(timm.models.vision_transformer.VisionTransformer(**SIZES, num_classes=5), "dynamicvit", "remove", plan)
    assert _load_any(fresh, tmp_path / "c.safetensors", settings) == []
    assert torch.equal(fresh.eval()(IMAGES), model.eval()(IMAGES))
    other = {**settings, "schedule": {"name": "stages", "blocks": [1, 2], "keep_rate": 0.5}, "treatment": {"name": "preserve"}}
    told = " ".join(_load_any(fresh, tmp_path / "c.safetensors", other))
    assert "treatment.name='remove', the model has 'preserve'" in told and "schedule.keep_rate=0.7, the model has 0.5" in told


@pytest.mark.parametrize("header", ["{broken", "{}", "[]"])
def test_a_broken_header_is_one_error(tmp_path, header):
    save_weights(tmp_path / "c.safetensors", {"a": torch.ones(2)}, metadata={"tokenprune.settings": header})
    with pytest.raises(CheckpointMismatch, match="the settings in the header of c.safetensors cannot be read"):
        tokenprune.load(tmp_path / "c.safetensors")
