"""What a classification head reads of an Eva, a DINOv3 and a distilled DeiT: explicit formulas for every choice of pooling."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.models import images, small
from tokenprune import prune
from tokenprune.backbones.vit import build_vit

EVAS = ("eva02_tiny_patch14_224", "eva02_base_patch14_224", "vit_small_patch16_dinov3", "vit_base_patch16_rope_224")
PLAN = {"name": "explicit", "keep": {1: 5}}


def tokens_of(model, x):
    """The whole sequence after the last block, by timm's own blocks."""
    sequence, rope = model._pos_embed(model.patch_embed(x))
    sequence = model.norm_pre(sequence)
    for block in model.blocks:
        sequence = block(sequence, rope=rope)
    return sequence


def head(model, pooled):
    norm = model.fc_norm
    return model.head(F.layer_norm(pooled, pooled.shape[-1:], norm.weight, norm.bias, norm.eps))


@pytest.mark.parametrize(("included", "start"), [(True, 0), (False, None)])
@pytest.mark.parametrize("label", EVAS)
@torch.no_grad()
def test_the_mean_of_a_dense_eva(label, included, start):
    model = small(label, global_pool="avg", use_fc_norm=True)
    model.pool_include_prefix = included
    x = images(model)
    mean = tokens_of(model, x)[:, model.num_prefix_tokens if start is None else start :].mean(1)
    torch.testing.assert_close(prune(model)(x), head(model, mean))
    assert torch.equal(prune(model)(x), model(x)) == (not included)  # timm's own forward knows of patch tokens alone


@pytest.mark.parametrize("execution", ["gathered", "masked", "packed"])
@pytest.mark.parametrize("included", [True, False])
@pytest.mark.parametrize("treatment", ["remove", "preserve"])
@torch.no_grad()
def test_the_mean_of_a_pruned_eva(treatment, included, execution):
    model = small("eva02_base_patch14_224", global_pool="avg")
    model.pool_include_prefix = included
    ours, x = prune(model, "variance", treatment, PLAN, execution=execution, positions=16).eval(), images(model, 3)
    outputs = ours.encode(x)
    left = [map_[there] for map_, there in zip(outputs.map, outputs.present, strict=True)]
    assert {len(tokens) for tokens in left} == ({5} if treatment == "remove" else {16})
    means = torch.stack([torch.cat([p, t] if included else [t]).mean(0) for p, t in zip(outputs.prefix, left, strict=True)])
    torch.testing.assert_close(ours(x), head(model, means))


@pytest.mark.parametrize("execution", ["gathered", "masked", "packed"])
@pytest.mark.parametrize("included", [True, False])
@pytest.mark.parametrize("label", ["vit_base_patch16_siglip_gap_224", "eva02_base_patch14_224"])
@torch.no_grad()
def test_the_mean_weighs_a_merged_token_by_its_mass(label, included, execution):
    """It is the mean over all positions, each with the value of the token that it went into (ToMe on MAE), and not over live slots."""
    included = included and label.startswith("eva")  # the other has no prefix
    model = small(label, global_pool="avg")
    model.pool_include_prefix = included
    plan = {"name": "per_block", "remove": 5, "start": 0, "align": False}
    ours, x = prune(model, "tome", "merge", plan, execution=execution, positions=16).eval(), images(model, 3)
    outputs = ours.encode(x)
    masses = outputs.state.mass.where(outputs.state.live, 0)
    assert masses.max() > 1 and torch.equal(masses.sum(1), torch.full((3,), 16.0))
    everyone = torch.cat([outputs.prefix, outputs.map], 1) if included else outputs.map
    torch.testing.assert_close(ours(x), model.head(model.fc_norm(everyone.mean(1))), atol=1e-5, rtol=1e-5)
    live = model.norm(outputs.state.tokens) * outputs.state.live.unsqueeze(-1)
    unweighted = model.head(
        model.fc_norm((live.sum(1) + outputs.prefix.sum(1) * included) / (outputs.state.live.sum(1, keepdim=True) + included))
    )
    assert (ours(x) - unweighted).abs().max() > 1e-3


@torch.no_grad()
def test_other_poolings_count_a_merged_token_once():
    model = small("vit_base_patch16_siglip_224")  # attention pooling
    ours, x = prune(model, "tome", "merge", {"name": "explicit", "keep": {1: 10}}, positions=16).eval(), images(model)
    state = ours.encode(x).state
    torch.testing.assert_close(ours(x), model.forward_head(model.norm(state.tokens)))


@torch.no_grad()
def test_an_uneven_mean_counts_the_prefix_once():
    model = small("eva02_base_patch14_224", global_pool="avg")
    model.pool_include_prefix = True
    ours, x = prune(model, "svit", "remove", {"name": "stages", "blocks": [1], "keep_rate": 0.5}, positions=16).eval(), images(model, 4)
    outputs = ours.encode(x)
    left = [map_[there] for map_, there in zip(outputs.map, outputs.present, strict=True)]
    assert len({len(tokens) for tokens in left}) > 1
    means = torch.stack([torch.cat([p, t]).mean(0) for p, t in zip(outputs.prefix, left, strict=True)])
    torch.testing.assert_close(ours(x), head(model, means))


@pytest.mark.parametrize("pool", ["avg", "token"])
@torch.no_grad()
def test_an_eva_by_name_pools_as_the_config_says(pool):
    given = {"pool": pool, **({"pool_includes_prefix": True} if pool == "avg" else {})}
    model = build_vit({"model": "eva02_tiny_patch14_224", "img_size": 56, "patch_size": 14, **given}, num_classes=5).eval()
    x = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    sequence = tokens_of(model, x)
    if pool == "token":
        expected = model.head(F.layer_norm(sequence[:, 0], (192,), model.norm.weight, model.norm.bias, model.norm.eps))
    else:
        expected = head(model, sequence.mean(1))
    torch.testing.assert_close(prune(model)(x), expected)
    torch.testing.assert_close(prune(prune(model).deploy().backbone)(x), expected)  # a copy keeps the choice
