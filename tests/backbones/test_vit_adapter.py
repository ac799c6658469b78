"""ViT-Adapter by itself: what goes in, what comes out, what it refuses."""

import pytest
import torch

from tests.helpers.adapters import PLAN, adapter, images, plain_vit
from tokenprune import prune
from tokenprune.backbones.spatial_prior import to_maps
from tokenprune.backbones.vit_adapter import AdapterConfig, AdapterPyramid, ConvFFN, ViTAdapter
from tokenprune.errors import InvalidConfig

STRIDES = {8: {"p1": 2, "p2": 4, "p3": 8, "p4": 16}, 16: {"p2": 4, "p3": 8, "p4": 16, "p5": 32}}


def built(patch=8, scales=(4, 2, 1, 0.5), **vit):
    return ViTAdapter(prune(plain_vit(patch_size=patch, **vit)), AdapterConfig(conv_dim=4, heads=3, points=2), scales).eval()


def silence(model):
    """Let nothing but the named parts speak: injectors, extractors and the ViT's blocks add zero."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gamma") or ".attention.output." in name or ".ffn.fc2." in name:
                p.zero_()


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("scales", [(4, 2, 1, 0.5), (2,), (0.5, 2)])
def test_levels_have_their_strides_and_no_parameter_is_idle(patch, scales):
    model, pyramid = built(patch, scales).train(), AdapterPyramid(24, patch, scales, channels=6)
    maps = model(torch.randn(2, 3, 64, 128))
    expected = {name: stride for name, stride in STRIDES[patch].items() if patch / stride in scales}
    assert {name: tuple(m.shape) for name, m in maps.items()} == {name: (2, 24, 64 // s, 128 // s) for name, s in expected.items()}
    levels = pyramid(maps)
    assert pyramid.strides == expected | {pyramid.top: 2 * max(expected.values())}
    coarse = 2 * max(expected.values())
    assert {n: tuple(m.shape[1:]) for n, m in levels.items()} == {n: (6, -(-64 // s), -(-128 // s)) for n, s in pyramid.strides.items()}
    assert list(levels) == list(pyramid.strides) and levels[pyramid.top].shape[-1] == 128 // coarse
    sum(m.square().mean() for m in levels.values()).backward()
    mine = [*model.named_parameters(), *pyramid.named_parameters()]
    assert not [n for n, p in mine if p.grad is None and not n.startswith("pruned.backbone.head")]


def test_without_a_top_level_there_is_none():
    pyramid = AdapterPyramid(24, 8, (2,), channels=6, top_level=False)
    assert pyramid.top is None and list(pyramid(built(scales=(2,))(images(1)))) == list(pyramid.strides) == ["p2"]


def test_the_vit_is_unchanged_at_the_start_and_prefix_tokens_pass_by():
    """Injectors start at zero, so that a pretrained ViT starts as what it is."""
    model, x = built(), images(2)
    with torch.no_grad():
        mine, plain = model.encode(x), model.pruned.encode(x)
        assert torch.equal(mine.map, plain.map) and torch.equal(mine.prefix, plain.prefix)
        model.injectors[0].gamma.fill_(1.0)
        assert not torch.equal(model.encode(x).map, plain.map)
        seen = []
        model.pruned.watch = lambda block, state: seen.append(state.prefix)
        model(x)
    assert torch.equal(seen[0], model.pruned.start(x).prefix)


def test_each_level_is_its_own_map_of_the_prior_plus_the_tokens():
    model, x = built(), images(2)
    silence(model)
    with torch.no_grad():
        for norm in model.norms.values():
            norm.running_mean.normal_()
        first, tokens, shapes = model.prior(x)
        c2, c3, c4 = to_maps(tokens, shapes)
        vit = model.pruned.encode(x).map.transpose(1, 2).unflatten(2, (8, 8))
        expected = {
            "p1": first + model.up(c2) + torch.nn.functional.interpolate(vit, scale_factor=4, mode="bilinear"),
            "p2": c2 + torch.nn.functional.interpolate(vit, scale_factor=2, mode="bilinear"),
            "p3": c3 + vit,
            "p4": c4 + torch.nn.functional.interpolate(vit, scale_factor=0.5, mode="bilinear"),
        }
        for name, level in model(x).items():
            torch.testing.assert_close(level, model.norms[name](expected[name]))


def test_extractors_and_injectors_work_around_equal_groups_of_blocks():
    model, order = built(), []
    for name, part in model.named_modules():
        if name.startswith(("injectors.", "extractors.")) and name.split(".")[-1].isdigit() and hasattr(part, "attention"):
            part.register_forward_hook(lambda *_, name=name: order.append(name))
    model.pruned.watch = lambda block, _: order.append(block)
    model(images(1))
    assert order == ["injectors.0", 0, 1, "extractors.0.0", "injectors.1", 2, 3, "extractors.1.0", "injectors.2", 4, 5, "extractors.2.0",
                     "injectors.3", 6, 7, "extractors.3.0", "extractors.3.1", "extractors.3.2"]  # fmt: skip


def test_the_feed_forward_part_convolves_each_level_by_itself():
    torch.manual_seed(0)
    ffn, shapes = ConvFFN(8, 4), [(4, 6), (2, 3)]
    x = torch.randn(1, 30, 8)
    changed = x.clone()
    changed[:, 23] += 3  # the last cell of the first level, beside the first of the second in the sequence
    (_, cells) = (ffn(x, shapes) - ffn(changed, shapes)).abs().sum(-1).nonzero(as_tuple=True)
    assert sorted(cells.tolist()) == [16, 17, 22, 23]


@pytest.mark.parametrize("selector", ["svit", "ats"])
def test_the_encoder_alone_repeats_its_part_of_the_forward(selector):
    model, x = adapter(selector, "preserve"), images(2)
    with torch.no_grad():
        inside, alone, plain = model.encode(x), model.encoder_alone(x)(), model.pruned.encode(x)
    assert torch.equal(inside.map, alone.map) and torch.equal(inside.present, alone.present)
    assert not torch.equal(inside.map, plain.map)
    counts = [torch.stack([u.attended for u in o.usage]) for o in (inside, plain)]
    assert not torch.equal(*counts)  # which is why cost and time are taken in here


def test_losses_of_a_gate_arrive_in_training_only():
    model = adapter("svit", "reactivate", losses={"ratio": {}})
    assert model.losses() == {}
    model.train()(images(2))
    (value,) = model.losses().values()
    assert value.requires_grad
    model.eval()(images(2))
    assert model.losses() == {}


def test_its_keys_say_where_the_encoder_is():
    keys = set(adapter("svit", "preserve").state_dict())
    assert {"pruned.backbone.blocks.0.attn.qkv.weight", "prior.level_embed"} <= keys
    assert any(k.startswith("pruned.selectors.3.") for k in keys) and PLAN["blocks"][1] == 3


def test_images_that_are_no_multiple_of_two_patches_are_refused():
    assert built(16).divisor == 32
    with pytest.raises(InvalidConfig, match="72 x 64 px; a ViT-Adapter over patches of 8 px needs multiples of 16"):
        built()(torch.randn(1, 3, 72, 64))


@pytest.mark.parametrize(
    ("vit", "cfg", "words"),
    [
        ({"patch_size": 4}, {}, "patches of 4 px is not known; allowed are patch sizes 8 and 16"),
        ({"depth": 6}, {}, "depth is 6, allowed are multiples of 4"),
        ({}, {"heads": 5}, "adapter.heads 5 does not divide its 24 channels"),
        ({}, {"heads": 3, "ratio": 0.01}, "does not divide its 0 channels"),
        ({}, {"points": 0}, "adapter.points 0: allowed are 1 and more"),
        ({}, {"ffn_ratio": 0.01}, "adapter.ffn_ratio 0.01 of 24 channels leaves none"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(vit, cfg, words):
    with pytest.raises(InvalidConfig) as error:
        ViTAdapter(prune(plain_vit(**vit)), AdapterConfig(**{"heads": 3, **cfg}))
    assert words in str(error.value) and len(error.value.problems) == 1
