"""Files as MAE, EVA-02, DeiT and DINOv2 publish them, written here from tiny models: the loaded model answers as the source does."""

import re
from argparse import Namespace

import pytest
import timm
import torch

from tests.helpers.models import EVERY, awake, images, small
from tokenprune import prune
from tokenprune.backbones.vit import build_vit
from tokenprune.backbones.weights import load_backbone, load_timm, load_vit
from tokenprune.engine.blocks.windows import Windows
from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import save_weights

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
LABELS = [label for label in EVERY if not label.startswith("naflex") and "_r_s16" not in label]


def vit(classes=0, **changes):
    torch.manual_seed(changes.pop("seed", 0))
    return awake(build_vit({**TINY, **changes}, classes)).eval()


def mae_file(path, source):
    """A pre-training file: encoder, decoder, and all that its training loop stored."""
    decoder = {"mask_token": (1, 1, 8), "decoder_embed.weight": (8, 24), "decoder_embed.bias": (8,), "decoder_pos_embed": (1, 17, 8),
               "decoder_blocks.0.norm1.weight": (8,), "decoder_norm.weight": (8,), "decoder_pred.weight": (192, 8)}  # fmt: skip
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    optimizer = torch.optim.AdamW(source.parameters())
    more = {"optimizer": optimizer.state_dict(), "epoch": 799, "scaler": {"scale": 1.0}, "args": Namespace(lr=1e-3, out="x", blr=None)}
    torch.save({"model": {**state, **{k: torch.zeros(s) for k, s in decoder.items()}}, **more}, path)
    return path


def to_authors(state, separate):
    """EVA-02's own names: w1, w2, w3 (w12, w3 where the first two are one), ffn_ln, inner_attn_ln, biases beside q and v; rope buffers."""
    names = ((r"mlp\.fc1_g\.", "mlp.w1."), (r"mlp\.fc1_x\.", "mlp.w2."), (r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3."),
             (r"mlp\.norm\.", "mlp.ffn_ln."), (r"attn\.norm\.", "attn.inner_attn_ln."),
             (r"attn\.([qv])_proj\.bias", r"attn.\1_bias"))  # fmt: skip
    out = {}
    for key, value in state.items():
        for ours, theirs in names:
            key = re.sub(ours, theirs, key)
        out[key] = value
    assert any("q_proj" in k for k in out) == separate
    places = ("", *(f"blocks.{i}.attn." for i in range(3)))
    return {**out, **{f"{place}rope.freqs_{part}": torch.zeros(16, 8) for place in places for part in ("cos", "sin")}}


def to_clip(state):
    """Names of CLIP's image encoder."""
    names = ((r"^blocks\.", "transformer.resblocks."), (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"),
             (r"\.norm([12])", r".ln_\1"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"), (r"^norm_pre", "ln_pre"),
             (r"^norm\.", "ln_post."), (r"patch_embed\.proj", "conv1"), ("cls_token", "class_embedding"),
             ("pos_embed", "positional_embedding"))  # fmt: skip
    out = {}
    for key, value in state.items():
        for ours, theirs in names:
            key = re.sub(ours, theirs, key)
        out[f"visual.{key}"] = value[0].squeeze(0) if "_embedding" in key else value
    return out


def test_the_final_norm_of_a_file_of_other_names_is_not_passed_over(tmp_path):
    torch.manual_seed(0)
    source, target = (timm.models.VisionTransformer(**TINY, pre_norm=True, num_classes=classes).eval() for classes in (0, 5))
    x, path = images(awake(source)), tmp_path / "clip.safetensors"
    save_weights(path, to_clip(source.state_dict()))
    assert load_vit(target, path) == ["the head starts from random weights: the file's is missing, the model's has 5"]
    assert torch.equal(target.forward_features(x), source.forward_features(x))


def test_mae(tmp_path):
    source, target = vit(), vit(5, seed=1)
    path = mae_file(tmp_path / "mae_pretrain.pth", source)
    x = images(source)
    assert load_vit(target, path) == ["the head starts from random weights: the file's is missing, the model's has 5"]
    assert torch.equal(target.forward_features(x), source.forward_features(x))
    encoder = prune(vit(seed=2), "evit", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5})
    load_backbone(encoder, path)
    assert torch.equal(encoder.backbone.forward_features(x), source.forward_features(x))
    averaged = vit(5, seed=3, pool="avg")
    assert load_vit(averaged, path)[-1] == "the file's final norm stands behind the pooling"
    assert torch.equal(averaged.fc_norm.weight, source.norm.weight)
    load_backbone(vit(5, seed=3, pool="avg"), path)  # the norm belongs to the head there


def test_a_fine_tuned_mae_comes_with_its_head(tmp_path):
    source, target = vit(5, pool="avg", pool_includes_prefix=True), vit(5, pool="avg", pool_includes_prefix=True, seed=1)
    torch.save({"model": source.state_dict(), "epoch": 49, "args": Namespace(nb_classes=5)}, tmp_path / "checkpoint-49.pth")
    assert load_vit(target, tmp_path / "checkpoint-49.pth") == []
    assert torch.equal(target(images(source)), source(images(source)))


def test_mae_of_another_grid_and_patch_size(tmp_path):
    """16 px patches of a 64 px image: timm's kernels resampled, codes interpolated from 4 x 4 to 8 x 8."""
    path = mae_file(tmp_path / "mae.pth", source := vit())
    target = vit(img_size=64, seed=1)
    load_vit(target, path)
    expected = torch.nn.functional.interpolate(
        source.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2), size=(8, 8), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(target.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=0)
    assert torch.equal(target.pos_embed[:, :1], source.pos_embed[:, :1])
    coarse = vit(img_size=64, patch_size=16, seed=2)
    load_vit(coarse, path)
    flat = source.patch_embed.proj.weight.detach().sum((2, 3))  # what a flat patch gives is what it gave
    torch.testing.assert_close(coarse.patch_embed.proj.weight.sum((2, 3)), flat, atol=1e-4, rtol=1e-4)
    assert torch.equal(coarse.pos_embed, source.pos_embed)


@pytest.mark.parametrize("layout", ["safetensors", "bin", "authors"])
@pytest.mark.parametrize("label", ["eva02_tiny_patch14_224", "eva02_base_patch14_224", "eva02_base_patch16_clip_224"])
@torch.no_grad()
def test_eva_02(tmp_path, label, layout):
    source, target = small(label), small(label)
    torch.manual_seed(1)
    awake(target)
    state, x = source.state_dict(), images(source)
    assert not torch.equal(target(x), source(x))
    path = tmp_path / {"safetensors": "model.safetensors", "bin": "pytorch_model.bin", "authors": "eva02.pt"}[layout]
    if layout == "safetensors":
        save_weights(path, state)
    elif layout == "bin":
        torch.save(state, path)
    else:
        torch.save({"module": to_authors(state, "tiny" not in label), "args": Namespace(opt="adamw")}, path)
    assert load_vit(target, path) == []
    assert torch.equal(target(x), source(x)) and torch.equal(prune(target)(x), source(x))


@torch.no_grad()
def test_eva_02_before_fine_tuning(tmp_path):
    """Mask token and head of masked image modelling are left out; the final norm goes behind the pooling."""
    source, target = small("eva02_base_patch14_224", global_pool="token"), small("eva02_base_patch14_224")
    state = {k: v for k, v in to_authors(source.state_dict(), True).items() if not k.startswith("head.")}
    modelling = {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(9, 48), "lm_head.bias": torch.zeros(9)}
    torch.save({"module": {**state, **modelling}}, tmp_path / "mim.pt")
    notes = load_vit(target, tmp_path / "mim.pt")
    assert len(notes) == 2 and "head starts from random" in notes[0] and "behind the pooling" in notes[1]
    assert torch.equal(target.fc_norm.weight, source.norm.weight)
    x = images(source)
    torch.testing.assert_close(target.fc_norm(target.forward_features(x)), source.forward_features(x))
    token = small("eva02_base_patch14_224", global_pool="token")
    load_backbone(prune(token), tmp_path / "mim.pt")
    assert torch.equal(token.forward_features(x), source.forward_features(x))


@torch.no_grad()
def test_the_backbone_of_an_eva_02_detector(tmp_path):
    """Detectron2's names, a class code in front of the position codes, two rotary tables, pyramid and heads beside it."""
    source = small("eva02_base_patch14_224")
    body = {k: v for k, v in to_authors(source.state_dict(), True).items() if not k.startswith(("head.", "fc_norm.", "cls_token"))}
    tables = {f"rope_{kind}.freqs_{part}": torch.zeros(16, 12) for kind in ("win", "glb") for part in ("cos", "sin")}
    around = {"backbone.simfp_2.0.weight": torch.zeros(8, 4, 2, 2), "roi_heads.box_head.0.fc1.weight": torch.zeros(4, 4)}
    torch.save({"model": {f"backbone.net.{k}": v for k, v in {**body, **tables}.items()} | around}, tmp_path / "cascade.pth")
    target = small("eva02_base_patch14_224", class_token=False, img_size=64, num_classes=0, dynamic_img_size=True)
    target.windows, target.fc_norm = Windows(4, (1,)), torch.nn.Identity()
    encoder = prune(target)
    assert load_vit(encoder, tmp_path / "cascade.pth") == []
    own, theirs = target.blocks.state_dict(), source.blocks.state_dict()
    assert all(torch.equal(own[k], v) for k, v in theirs.items()) and own.keys() == theirs.keys()
    grid = source.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(target.pos_embed, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=0)
    assert encoder.encode(torch.zeros(1, 3, 64, 64)).map.shape == (1, 64, 48)


@torch.no_grad()
def test_eva_02_on_another_grid(tmp_path):
    source = small("eva02_base_patch14_224")
    torch.save({"module": to_authors(source.state_dict(), True)}, tmp_path / "eva.pt")
    target = small("eva02_base_patch14_224", img_size=48, patch_size=16)  # 3 x 3 of 16 px
    load_vit(target, tmp_path / "eva.pt")
    assert target.pos_embed.shape == (1, 10, 48) and torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    assert target(torch.zeros(1, 3, 48, 48)).isfinite().all()


@torch.no_grad()
def test_a_distilled_deit_and_a_plain_one_from_its_file(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    source, target = small(name), awake(small(name))
    torch.save({"model": source.state_dict()}, tmp_path / "deit.pth")
    x = images(source)
    assert load_vit(target, tmp_path / "deit.pth") == [] and torch.equal(target(x), source(x))
    load_backbone(encoder := awake(small(name)), tmp_path / "deit.pth")
    assert torch.equal(encoder.forward_features(x), source.forward_features(x))
    plain = small("vit_tiny_patch16_224")
    assert load_vit(plain, tmp_path / "deit.pth") == []
    assert torch.equal(plain.pos_embed, torch.cat([source.pos_embed[:, :1], source.pos_embed[:, 2:]], 1))
    assert torch.equal(plain.head.weight, source.head.weight)
    save_weights(tmp_path / "plain.safetensors", plain)
    with pytest.raises(CheckpointMismatch) as error:
        load_vit(awake(small(name)), tmp_path / "plain.safetensors")
    assert "missing dist_token" in str(error.value) and "shape of pos_embed: file (1, 17, 48), model (1, 18, 48)" in str(error.value)


@torch.no_grad()
def test_dinov2_with_registers_as_published(tmp_path):
    """timm adds the class token's code to it and renames the registers."""
    source = small("vit_giant_patch14_reg4_dinov2")
    state = {re.sub(r"mlp\.fc1\.", "mlp.w12.", re.sub(r"mlp\.fc2\.", "mlp.w3.", k)): v for k, v in source.state_dict().items()}
    code = torch.randn(1, 1, 48)
    state |= {"register_tokens": state.pop("reg_token"), "mask_token": torch.zeros(1, 48), "cls_token": state["cls_token"] - code}
    state["pos_embed"] = torch.cat([code, state["pos_embed"]], 1)
    torch.save(state, tmp_path / "dinov2.pth")
    target = awake(small("vit_giant_patch14_reg4_dinov2"))
    load_vit(target, tmp_path / "dinov2.pth")
    torch.testing.assert_close(target(images(source)), source(images(source)))


@pytest.mark.parametrize("label", LABELS)
@torch.no_grad()
def test_every_family_reads_its_own_files(tmp_path, label):
    """Nothing that timm's filters rename or leave out is lost on the way."""
    source = small(label)
    for model in (source, prune(source)):
        save_weights(tmp_path / "w.safetensors", model)
        target = awake(small(label))
        load_vit(target, tmp_path / "w.safetensors")
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize("load", [load_vit, load_backbone], ids=["whole", "encoder"])
def test_a_file_of_another_model_lists_every_key(tmp_path, load):
    path = mae_file(tmp_path / "mae.pth", vit(depth=3))
    with pytest.raises(CheckpointMismatch) as error:
        load(prune(vit(embed_dim=36)), path)
    text = str(error.value)
    shared = [k for k in vit().state_dict() if k.startswith(("blocks.", "norm.", "patch_", "cls_", "pos_"))]
    assert text.count("unexpected blocks.2.") == 12 and all(f"shape of {k}: file" in text for k in shared)
    assert "decoder" not in text and "mask_token" not in text
    with pytest.raises(CheckpointMismatch, match="missing blocks.0.attn.q_proj.weight"):
        load(small("eva02_base_patch14_224"), path)


def test_what_timm_cannot_bring_into_form_is_one_error(tmp_path):
    state = vit().state_dict() | {"patch_embed.proj.weight": torch.zeros(24, 100)}  # linear patches, of 100 values and not 192
    save_weights(tmp_path / "w.safetensors", state)
    with pytest.raises(CheckpointMismatch, match="not of a VisionTransformer of this size"):
        load_vit(vit(), tmp_path / "w.safetensors")


@torch.no_grad()
def test_timm_models_of_any_kind(tmp_path):
    torch.manual_seed(0)
    options = {"depths": (1, 1, 1, 1), "num_classes": 4}
    source, target = (timm.create_model("convnextv2_atto", dims=(8, 8, 16, 16), **options).eval() for _ in range(2))
    save_weights(tmp_path / "cnn.safetensors", source)
    load_timm(target, tmp_path / "cnn.safetensors")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(target(x), source(x))
    save_weights(tmp_path / "wrong.safetensors", {k: v for k, v in source.state_dict().items() if "stages.3." not in k})
    with pytest.raises(CheckpointMismatch) as error:
        load_timm(target, tmp_path / "wrong.safetensors")
    assert str(error.value).count("missing stages.3.") == sum(k.startswith("stages.3.") for k in source.state_dict())
