"""Position codes by plain bicubic interpolation: against the formula, in all three classes of models, and through files."""

import copy
import pickle

import pytest
import timm
import torch
from torch.nn import functional as F

from tokenprune.backbones.position_codes import PlainCodes, resize_codes, resize_plainly
from tokenprune.backbones.vit import build_vit
from tokenprune.backbones.weights import load_vit
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig
from tokenprune.utils.checkpoints import save_weights

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}


def pair(**options):
    """The same weights with timm's codes and with plain ones, in eval mode."""
    torch.manual_seed(0)
    theirs = build_vit({**SMALL, **options}, 5).eval()
    plain = build_vit({**SMALL, **options, "pos_resample": "bicubic"}, 5).eval()
    with torch.no_grad():
        theirs.pos_embed.normal_()
    plain.load_state_dict(theirs.state_dict())
    return theirs, plain


def cubic(distance, a=-0.75):
    """Keys' kernel, without a filter."""
    distance = abs(distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0


def test_codes_follow_the_formula():
    codes, (before, after) = torch.randn(1, 20, 3), (5, 7)
    found = resize_codes(codes, (4, before), (4, after)).unflatten(1, (4, after))
    for place in range(after):
        centre = (place + 0.5) * before / after - 0.5
        low = int(centre // 1)
        weights = {low + step: cubic(centre - low - step) for step in range(-1, 3)}
        by_hand = sum(weight * codes.unflatten(1, (4, before))[:, :, min(max(x, 0), before - 1)] for x, weight in weights.items())
        assert torch.allclose(found[:, :, place], by_hand, atol=1e-5)


def test_the_models_own_grid_is_not_touched():
    theirs, plain = pair()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(theirs(images), plain(images))


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("side", [32, 96])
def test_other_grids_get_plain_codes_in_the_model_and_in_the_engine(side, class_token):
    theirs, plain = pair(class_token=class_token)
    images = torch.randn(2, 3, side, side)
    seen = plain._pos_embed(plain.patch_embed(images))
    prefix = int(class_token)
    maps = plain.pos_embed[:, prefix:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    codes = F.interpolate(maps, (side // 16, side // 16), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    assert torch.allclose(seen[:, prefix:], plain.patch_embed(images).flatten(1, 2) + codes, atol=1e-6)
    if class_token:
        assert torch.equal(seen[:, :1], (plain.cls_token + plain.pos_embed[:, :1]).expand(2, -1, -1))
    assert not torch.allclose(theirs._pos_embed(theirs.patch_embed(images)), seen, atol=1e-3)
    assert torch.allclose(prune(copy.deepcopy(plain))(images), plain(images), atol=1e-5)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "vit_tiny_patch16_224"])
def test_models_of_timm_by_name_differ_by_their_codes_alone(name):
    patch = 14 if "patch14" in name else 16
    options = {"model": name, "img_size": 4 * patch, "patch_size": patch}
    theirs, plain = (build_vit({**options, "pos_resample": way}).eval() for way in ("antialias", "bicubic"))
    plain.load_state_dict(theirs.state_dict())
    assert isinstance(plain, PlainCodes) and not isinstance(theirs, PlainCodes)
    same, other = torch.randn(1, 3, 4 * patch, 4 * patch), torch.randn(1, 3, 6 * patch, 2 * patch)
    with torch.no_grad():
        assert torch.allclose(theirs(same), plain(same), atol=1e-6) and not torch.equal(theirs(other), plain(other))
        theirs.pos_embed.zero_(), plain.pos_embed.zero_()
        assert torch.allclose(theirs(other), plain(other), atol=1e-6)


def test_a_file_of_another_grid_is_resampled_in_the_same_way(tmp_path):
    theirs, plain = pair()
    save_weights(tmp_path / "vit.safetensors", plain)
    larger = build_vit({**SMALL, "img_size": 96, "pos_resample": "bicubic"}, 5)
    load_vit(larger, tmp_path / "vit.safetensors")
    assert torch.equal(larger.pos_embed[:, 1:], resize_codes(plain.pos_embed[:, 1:], (4, 4), (6, 6)))
    filtered = build_vit({**SMALL, "img_size": 96}, 5)
    load_vit(filtered, tmp_path / "vit.safetensors")
    assert torch.equal(filtered.pos_embed[:, 1:], resize_codes(theirs.pos_embed[:, 1:], (4, 4), (6, 6), plain=False))


def test_a_model_with_plain_codes_can_be_copied_and_pickled():
    _, plain = pair()
    images = torch.randn(1, 3, 96, 64)
    for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(twin(images), plain(images))


def test_other_ways_and_other_models_are_refused_by_name():
    with pytest.raises(InvalidConfig, match="pos_resample is 'nearest', allowed are antialias, bicubic"):
        build_vit({**SMALL, "pos_resample": "nearest"})
    with pytest.raises(InvalidConfig, match="the model is a Beit; allowed with it: VisionTransformer, .*Eva"):
        resize_plainly(timm.create_model("beit_base_patch16_224", depth=1))
