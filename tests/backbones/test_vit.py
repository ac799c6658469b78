"""Plain ViTs from a configuration and weights from files."""

import pytest
import timm
import torch

from tokenprune import prune
from tokenprune.backbones.vit import build_vit, read_backbone
from tokenprune.backbones.weights import load_backbone, load_vit
from tokenprune.errors import CheckpointMismatch, InvalidConfig, UnsupportedBackbone
from tokenprune.tasks.encoder import build_pruned, positions
from tokenprune.utils.checkpoints import save_weights

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def test_sizes_are_taken_and_any_divisible_image_works():
    vit = build_vit(SMALL, num_classes=7)
    assert vit(torch.randn(1, 3, 32, 32)).shape == (1, 7) and vit(torch.randn(1, 3, 48, 64)).shape == (1, 7)
    assert len(vit.blocks) == 2 and vit.blocks[0].attn.num_heads == 3


def test_by_name_equals_timm():
    ours = build_vit({"model": "deit_tiny_patch16_224"}, num_classes=1000)
    assert set(ours.state_dict()) == set(timm.create_model("deit_tiny_patch16_224").state_dict())


EVA = {"model": "eva02_tiny_patch14_224", "patch_size": 14, "img_size": 56}


def test_an_eva_by_name_is_built_pruned_and_takes_any_size():
    plan = {"name": "stages", "blocks": [1], "keep_rate": 0.5}
    cfg = {"backbone": EVA, "data": {"side": 70}, "selector": {"name": "random"}, "treatment": {"name": "preserve"}, "schedule": plan}
    model = build_pruned(cfg, num_classes=3)
    assert positions(cfg) == 25 and model.patch_size == 14
    outputs = model.encode(torch.randn(1, 3, 70, 70))
    assert outputs.map.shape == (1, 25, 192) and model.logits(outputs).shape == (1, 3) and outputs.usage[1].attended.tolist() == [13]


def test_eva_weights_are_loaded_and_resampled(tmp_path):
    source = build_vit(EVA, num_classes=4)
    target = build_vit({**EVA, "img_size": 70, "pretrained": str(files(tmp_path, prune(source)))})
    assert torch.equal(target.blocks[3].attn.q_bias, source.blocks[3].attn.q_bias) and target.pos_embed.shape == (1, 26, 192)


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        ({**EVA, "patch_size": 16, "img_size": 64}, "set backbone.patch_size=14"),
        ({"model": "naflexvit_base_patch16_gap"}, "cannot be built for any image size.*allowed: ViT, DeiT, EVA"),
        ({"model": "vit_small_patch16_dinov3", "img_size": 32, "pos_init": "sincos"}, "no learned position codes.*use normal"),
    ],
    ids=["patch", "naflex", "sincos"],
)
def test_a_named_model_that_does_not_fit_the_settings_is_refused(cfg, text):
    with pytest.raises(InvalidConfig, match=text):
        build_vit(cfg)


def test_a_named_model_without_adapter_is_refused_before_anything_is_trained():
    with pytest.raises(UnsupportedBackbone, match="relative position bias"):
        build_vit({"model": "beit_base_patch16_224"})


def test_without_class_token_the_final_norm_stays_on_the_tokens():
    vit = build_vit({**SMALL, "class_token": False})
    assert vit.cls_token is None and isinstance(vit.norm, torch.nn.LayerNorm)


def test_every_problem_at_once():
    with pytest.raises(InvalidConfig) as error:
        build_vit({**SMALL, "patch_size": 7, "num_heads": 5, "pos_init": "rope"})
    assert len(error.value.problems) == 3
    with pytest.raises(InvalidConfig, match="did you mean 'embed_dim'"):
        build_vit({**SMALL, "embed_dims": 3})
    with pytest.raises(InvalidConfig, match="not a timm model"):
        build_vit({"model": "deit_tinny"})


def test_an_adapter_leaves_the_vit_without_a_final_norm():
    assert isinstance(build_vit({**SMALL, "depth": 4, "adapter": {}}).norm, torch.nn.Identity)
    assert isinstance(build_vit({**SMALL, "adapter": None}).norm, torch.nn.LayerNorm)
    assert read_backbone({**SMALL, "adapter": {"ratio": 1}}).adapter.ratio == 1.0 and read_backbone(SMALL).adapter is None


def test_an_adapter_that_does_not_fit_is_found_with_the_rest():
    with pytest.raises(InvalidConfig) as error:
        build_vit({**SMALL, "patch_size": 4, "num_heads": 5, "size": "giant", "adapter": {"heads": 7}})
    text = str(error.value)
    assert len(error.value.problems) == 5 and "backbone.size is 'giant', allowed are tiny, small, base, large, huge" in text
    assert "depth is 2" in text and "patches of 4 px" in text and "adapter.heads 7" in text
    with pytest.raises(InvalidConfig, match="backbone.adapter.head is not a setting, did you mean 'heads'"):
        build_vit({**SMALL, "adapter": {"head": 3}})


@pytest.mark.parametrize(
    ("patch", "adapter", "scales", "sides", "expected"),
    [
        (16, {}, [4, 2, 1, 0.5], (800, 1333), 50 * 84),
        (16, None, [4, 2, 1, 0.5], (800, 1333), 50 * 84),
        (16, None, [4, 2], (800, 1333), 50 * 84),
        (16, {}, [4], (800, 1320), 50 * 84),  # 1320 -> 1344: two patches, whatever the levels
        (16, None, [4], (800, 1320), 50 * 83),
        (8, {}, [2], (100, 128), 14 * 16),
        (8, None, [2], (100, 128), 13 * 16),
    ],
)
def test_positions_are_those_of_the_padded_image(patch, adapter, scales, sides, expected):
    config = {"backbone": {"patch_size": patch, "adapter": adapter}, "data": {"short_side": sides[0], "long_side": sides[1]}}
    assert positions({**config, "task": {"pyramid": {"scales": scales}}}) == expected


def test_positions_without_a_pyramid_are_those_of_the_image():
    assert positions({"backbone": {"patch_size": 16}, "data": {"side": 224}}) == 196


def test_sincos_start_makes_neighbours_alike():
    codes = build_vit({**SMALL, "img_size": 64, "pos_init": "sincos"}).pos_embed[0, 1:].detach()
    near, far = (codes[0] - codes[1]).norm(), (codes[0] - codes[36]).norm()
    assert near < far


def test_build_pruned_reads_the_axes():
    cfg = {
        "backbone": SMALL,
        "selector": {"name": "evit"},
        "treatment": {"name": "preserve"},
        "cls": "mean",
        "execution": "auto",
        "schedule": {"name": "stages", "blocks": [1], "keep_rate": 0.5},
        "losses": {},
    }
    model = build_pruned(cfg)
    assert list(model.selectors) == ["1"] and model.class_token.token is None  # `mean` has no parameter
    none = {axis: {"name": "none"} for axis in ("selector", "treatment", "schedule")}
    assert len(build_pruned({**cfg, **none}).selectors) == 0


def files(folder, model, **extra):
    save_weights(folder / "w.safetensors", {**model.state_dict(), **extra})
    return folder / "w.safetensors"


def test_backbone_weights_from_timm_keys_and_from_our_own_models(tmp_path):
    source = build_vit(SMALL, num_classes=9)
    for path in (files(tmp_path, source), files(tmp_path, prune(source)), files(tmp_path, torch.nn.ModuleDict({"net": prune(source)}))):
        target = prune(build_vit(SMALL), selector="evit", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5})
        load_backbone(target, path)
        assert torch.equal(target.backbone.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
        assert torch.equal(target.backbone.pos_embed, source.pos_embed)


@pytest.mark.parametrize("norm", [True, False])
def test_without_a_final_norm_the_files_is_left_out(tmp_path, norm):
    """DeiT's files have one, a ViT-Adapter's encoder has none."""
    cfg = {**SMALL, "depth": 4, "class_token": False, "adapter": {"heads": 4}}
    source = build_vit({**SMALL, "depth": 4})
    state = {k: v for k, v in source.state_dict().items() if norm or not k.startswith("norm.")}
    save_weights(tmp_path / "deit.safetensors", state)
    target = prune(build_vit({**cfg, "pretrained": str(tmp_path / "deit.safetensors")}))
    assert torch.equal(target.backbone.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    if not norm:  # a plain ViT needs it
        with pytest.raises(CheckpointMismatch, match="missing norm.weight"):
            load_backbone(build_vit({**SMALL, "depth": 4}), tmp_path / "deit.safetensors")


def test_position_codes_are_resampled_and_a_class_token_left_out(tmp_path):
    source = build_vit({**SMALL, "img_size": 64})
    path = files(tmp_path, source)
    target = build_vit({**SMALL, "class_token": False, "pretrained": str(path)})
    assert target.pos_embed.shape == (1, 16, 24)
    expected = torch.nn.functional.interpolate(
        source.pos_embed[:, 1:].unflatten(1, (8, 8)).permute(0, 3, 1, 2), size=(4, 4), mode="bicubic", antialias=True
    )
    assert torch.allclose(target.pos_embed, expected.flatten(2).transpose(1, 2), atol=1e-4)


def test_another_backbone_is_refused_with_all_keys(tmp_path):
    path = files(tmp_path, build_vit({**SMALL, "depth": 3}))
    with pytest.raises(CheckpointMismatch) as error:
        load_backbone(build_vit(SMALL), path)
    assert str(error.value).count("unexpected blocks.2.") == 12


@pytest.mark.parametrize(("included", "start"), [(True, 0), (False, 1), (None, 1)])
def test_a_mean_counts_the_class_token_where_it_is_asked_to(included, start):
    """Cropr's pooling, and timm's: the mean of the tokens, then the norm, then the head."""
    torch.manual_seed(0)
    vit = build_vit({**SMALL, "pool": "avg", "pool_includes_prefix": included}, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = vit._pos_embed(vit.patch_embed(images))
    for block in vit.blocks:
        tokens = block(tokens)
    expected = vit.head(torch.nn.functional.layer_norm(tokens[:, start:].mean(1), (24,), vit.fc_norm.weight, vit.fc_norm.bias, 1e-6))
    assert torch.allclose(vit(images), expected, atol=1e-5) and torch.allclose(prune(vit)(images), expected, atol=1e-5)


@pytest.mark.parametrize("treatment", ["remove", "preserve"])
def test_the_mean_of_a_pruned_model_counts_the_class_token_too(treatment):
    torch.manual_seed(0)
    vit = build_vit({**SMALL, "pool": "avg", "pool_includes_prefix": True}, num_classes=5)
    for execution in ("gathered", "masked"):
        axes = {"schedule": {"name": "explicit", "keep": {1: 5}}, "treatment": treatment, "execution": execution}
        model = prune(vit, selector="evit", **axes).eval()
        images = torch.randn(2, 3, 32, 32)
        outputs = model.encode(images)
        tokens = [outputs.map[i][outputs.present[i]] for i in range(2)]
        assert {len(t) for t in tokens} == ({5} if treatment == "remove" else {16})
        means = torch.stack([torch.cat([p, t]).mean(0) for p, t in zip(outputs.prefix, tokens, strict=True)])
        assert torch.allclose(model(images), vit.head(vit.fc_norm(means)), atol=1e-5)


def test_pooling_by_name_and_what_is_refused():
    named = build_vit({"model": "deit_tiny_patch16_224", "pool": "avg", "pool_includes_prefix": True}, num_classes=5)
    assert (named.global_pool, named.pool_include_prefix) == ("avg", True)
    assert build_vit({**SMALL, "pool": "token"}, 5).global_pool == "token"
    assert isinstance(build_vit({**SMALL, "pool": "avg"}).norm, torch.nn.LayerNorm)  # no head: maps are normed
    for wrong, words in (
        ({"pool": "max"}, "backbone.pool is 'max', allowed are token, avg and null"),
        ({"pool": "token", "class_token": False}, "there is none to read"),
        ({"pool_includes_prefix": True}, "give backbone.pool=avg with it"),
        ({"pool": "token", "pool_includes_prefix": True}, "the head reads the class token alone"),
        ({"model": "deit_tiny_patch16_224", "pool_includes_prefix": True, "patch_size": 16}, "pools by 'token'; give backbone.pool=avg"),
        ({**EVA, "pool": "token", "pool_includes_prefix": True}, "the head reads the class token alone"),
    ):
        with pytest.raises(InvalidConfig, match=words):
            build_vit({**SMALL, "img_size": 224, **wrong}, 5)


def test_a_head_that_fits_comes_with_the_file(tmp_path):
    source = build_vit(SMALL, num_classes=9)
    for path in (files(tmp_path, source), files(tmp_path, torch.nn.ModuleDict({"net": source}))):
        target = prune(build_vit(SMALL, 9), selector="evit", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5})
        assert load_vit(target, path) == []
        assert all(torch.equal(a, b) for a, b in zip(target.backbone.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.parametrize(("outputs", "words"), [(7, "the file's is of 7 outputs, the model's has 9"), (0, "the file's is missing")])
def test_a_head_that_does_not_fit_stays_random_and_is_noted(tmp_path, outputs, words):
    source, target = build_vit(SMALL, outputs), build_vit(SMALL, 9)
    before = target.head.weight.clone()
    (note,) = load_vit(target, files(tmp_path, source))
    assert note.startswith("the head starts from random weights") and words in note
    assert torch.equal(target.head.weight, before) and torch.equal(target.cls_token, source.cls_token)


def test_a_model_without_a_head_takes_any_file_without_a_note(tmp_path):
    assert load_vit(build_vit(SMALL), files(tmp_path, build_vit(SMALL, 7))) == []


def test_the_norm_goes_where_the_pooling_wants_it(tmp_path):
    source = build_vit(SMALL, 9)
    torch.nn.init.normal_(source.norm.weight)
    target = build_vit({**SMALL, "pool": "avg"}, 9)
    assert load_vit(target, files(tmp_path, source)) == ["the file's final norm stands behind the pooling"]
    assert torch.equal(target.fc_norm.weight, source.norm.weight)
    again = build_vit({**SMALL, "pool": "avg"}, 9)
    assert load_vit(again, files(tmp_path, target)) == [] and torch.equal(again.fc_norm.weight, source.norm.weight)
    back = build_vit(SMALL, 9)
    assert load_vit(back, files(tmp_path, target)) == ["the file's final norm stood behind the pooling"]
    assert torch.equal(back.norm.weight, source.norm.weight) and torch.equal(back.head.weight, target.head.weight)
    for options, name in (({}, "norm"), ({"pool": "avg"}, "fc_norm")):  # of a detector with an adapter, which has none
        model = build_vit({**SMALL, **options}, 9)
        torch.nn.init.normal_(getattr(model, name).weight)
        kept = getattr(model, name).weight.clone()
        state = {k: v for k, v in source.state_dict().items() if not k.startswith("norm.")}
        save_weights(tmp_path / "normless.safetensors", state)
        assert load_vit(model, tmp_path / "normless.safetensors") == ["the final norm starts anew: the file has none"]
        assert torch.equal(getattr(model, name).weight, kept) and torch.equal(model.blocks[0].norm1.weight, source.blocks[0].norm1.weight)


def wide(size, **options):
    """A ViT whose images are no square: 8 px patches."""
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, dynamic_img_size=True, **options
    )


def moved(source, prefix, old, new):
    """The codes of `source` interpolated from one grid to another, as timm does it with the right grid."""
    grid = source.pos_embed[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("load", [load_vit, load_backbone])
@pytest.mark.parametrize(
    "options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}]
)
@pytest.mark.parametrize("grid", [(4, 8), (8, 4), (3, 7)])
def test_position_codes_of_wide_images_move_by_their_own_grid(tmp_path, load, options, grid):
    source, target = wide((grid[0] * 8, grid[1] * 8), **options), wide((32, 96), **options)
    prefix = 0 if options.get("no_embed_class") else source.num_prefix_tokens
    load(target, files(tmp_path, source), grid=grid)
    assert torch.allclose(target.pos_embed[:, prefix:], moved(source, prefix, grid, (4, 12)), atol=1e-4)
    assert torch.equal(target.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    same = wide((grid[0] * 8, grid[1] * 8), **options)
    torch.nn.init.zeros_(same.pos_embed)
    load(same, tmp_path / "w.safetensors")
    assert torch.equal(same.pos_embed, source.pos_embed)


@pytest.mark.parametrize("load", [load_vit, load_backbone])
def test_an_unknown_grid_is_asked_for(tmp_path, load):
    source, target = wide((32, 64)), wide((32, 96))
    path = files(tmp_path, source)  # a plain state dict: 33 codes, and no word on their grid
    before = target.pos_embed.clone()
    with pytest.raises(CheckpointMismatch, match=r"33 position codes.*backbone.pretrained_grid=\[ROWS,COLUMNS\]"):
        load(target, path)
    with pytest.raises(CheckpointMismatch, match="grid 5 x 5 is not of so many"):
        load(target, path, grid=(5, 5))
    assert torch.equal(target.pos_embed, before)
    with pytest.raises(CheckpointMismatch, match="it may be 4 x 16 or 8 x 8"):
        load(wide((32, 128)), files(tmp_path, wide((64, 64))))
    save_weights(tmp_path / "said.safetensors", source)  # a module says its grid
    load(target, tmp_path / "said.safetensors")
    assert torch.allclose(target.pos_embed[:, 1:], moved(source, 1, (4, 8), (4, 12)), atol=1e-4)


def test_the_backbone_group_gives_the_grid_of_a_file(tmp_path):
    path = files(tmp_path, source := wide((32, 64)))
    vit = build_vit({**SMALL, "pretrained": str(path), "pretrained_grid": [4, 8]})
    assert torch.allclose(vit.pos_embed[:, 1:], moved(source, 1, (4, 8), (4, 4)), atol=1e-4)
    target = build_vit({**SMALL, "pretrained_grid": [4, 8]}, num_classes=5)  # what init=FILE loads later
    load_vit(prune(target), path)
    assert torch.equal(target.pos_embed, vit.pos_embed)
    with pytest.raises(InvalidConfig, match="pretrained_grid"):
        build_vit({**SMALL, "pretrained_grid": [0, 8]})


def test_a_register_is_a_token_that_no_head_reads():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "registers": 1}
    vit = build_vit(sizes, 5)
    assert vit.num_prefix_tokens == 2 and vit.pos_embed.shape == (1, 18, 24) and vit.reg_token.shape == (1, 1, 24)
    for wrong in (
        {"registers": -1},
        {"registers": 1, "class_token": False},
        {"registers": 1, "model": "vit_tiny_patch16_224", "patch_size": 16},
    ):
        with pytest.raises(InvalidConfig, match="backbone.registers is"):
            build_vit({**sizes, **wrong}, 5)
