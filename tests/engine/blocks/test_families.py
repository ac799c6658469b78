"""Every covered family against timm itself: nothing dropped, tokens dropped, every execution, any image size, half precision."""

import pytest
import torch

import tokenprune
from tests.helpers.models import EVERY, ROTARY, images, small

PLAN = {"name": "stages", "blocks": [1, 2], "keep_rate": 0.6}
PAIRINGS = {
    "uneven": ("svit", "remove", ("masked", "packed")),
    "fused": ({"name": "topk", "score": "mean_query"}, "fuse", ("masked", "gathered", "packed")),
    "merged": ("tome", "merge", ("masked", "gathered", "packed")),
    "remembered": ("variance", "preserve", ("masked", "gathered", "packed")),
    "back again": ("dynamicvit", "reactivate", ("masked", "gathered", "packed")),
    "grouped": ("mctf", "merge", ("masked", "gathered", "packed")),
    "kept rows": ("ats", "preserve", ("masked", "packed")),
}
TURNING = [label for label in ROTARY if label.endswith(("eva02_base_patch14_224", "mixed_ape_224", "dinov3", "sapiens2", "gated"))]
CASES = [(label, "uneven") for label in EVERY] + [(label, pairing) for label in TURNING for pairing in list(PAIRINGS)[1:]]


def pruned(model, selector=None, treatment=None, execution="auto", plan=PLAN, **options):
    torch.manual_seed(3)
    return tokenprune.prune(model, selector, treatment, None if selector is None else plan, execution=execution, positions=16, **options)


@pytest.mark.parametrize("label", EVERY)
@torch.no_grad()
def test_nothing_dropped_is_timm_bit_for_bit(label):
    model = small(label)
    x = images(model)
    assert torch.equal(pruned(model)(x), model(x))
    assert torch.equal(pruned(model, "random", "remove", plan={**PLAN, "keep_rate": 1.0})(x), model(x))
    outputs = pruned(model).encode(x)
    assert torch.equal(torch.cat([outputs.prefix, outputs.map], 1), model.forward_features(x))


@pytest.mark.parametrize("label", EVERY)
@torch.no_grad()
def test_shuffled_slots_are_timm(label):
    """Slots in another order for each image: only their position may count, in every block."""
    model = small(label)
    ours, x = pruned(model), images(model, 3)
    state = ours.start(x)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    outputs = ours.finish(*ours.run(state.compact(order, None, False), 0, ours.depth))
    torch.testing.assert_close(torch.cat([outputs.prefix, outputs.map], 1), model.forward_features(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("label", EVERY)
@torch.no_grad()
def test_attention_in_two_steps_is_attention(label):
    """Queries and keys first, values later (site `ahead`): of the same tokens it is what the block does in one step."""
    ours = pruned(small(label))
    state, _ = ours.run(ours.start(images(small(label), 2)), 0, 1)
    adapter, x = ours.family.blocks[1], state.sequence()
    p = adapter.asks(x, adapter.codes(state))
    map_ = ((p.q * p.scale) @ p.k.transpose(-2, -1)).softmax(-1)
    whole = adapter.attend(adapter.project(x, adapter.codes(state)))
    torch.testing.assert_close(adapter.answer(x, map_, p.call), whole, atol=1e-5, rtol=1e-5)
    assert adapter.macs(17, 17, 17, 17**2, 17).linear == pytest.approx(adapter.macs(17, 17, 17, 17**2).linear)


@pytest.mark.parametrize("execution", ["masked", "gathered", "packed"])
@pytest.mark.parametrize("label", EVERY)
@torch.no_grad()
def test_dropped_tokens_are_as_if_never_there(label, execution):
    """timm's own blocks over the kept tokens, with the kept rows of the whole rotary table, give what the engine gives."""
    model = small(label)
    ours, x = pruned(model, "variance", "remove", execution, {"name": "explicit", "keep": {1: 0.5}}), images(model, 1)
    outputs = ours.encode(x)
    kept = outputs.present[0].nonzero().squeeze(1)
    assert len(kept) == 8
    prefix, tokens, rope = ours.family.embed(x)
    sequence = torch.cat([prefix, tokens], 1)
    for number, block in enumerate(model.blocks):
        if number == 1:
            sequence = torch.cat([sequence[:, : ours.prefix_tokens], sequence[:, ours.prefix_tokens :][:, kept]], 1)
            rope = None if rope is None else rope[..., kept, :]
        turned = {} if rope is None else {"rope": rope[number] if rope.dim() == 4 else rope}
        sequence = block(sequence, **turned)
    expected = model.norm(sequence)
    torch.testing.assert_close(torch.cat([outputs.prefix, outputs.map[:, kept]], 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("label", "pairing"), CASES)
@torch.no_grad()
def test_executions_agree(label, pairing):
    selector, treatment, executions = PAIRINGS[pairing]
    model = small(label)
    source = "mean" if selector == "ats" else "learned"
    x, runs = images(model, 3), []
    for execution in executions:
        runs.append(pruned(model, selector, treatment, execution, cls=source).encode(x))
    assert runs[0].usage[-1].fed.min() < 16 + runs[0].prefix.shape[1]
    for other in runs[1:]:
        assert torch.equal(other.present, runs[0].present)
        torch.testing.assert_close(other.map, runs[0].map, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.prefix, runs[0].prefix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "label", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_base_patch16_rope_mixed_ape_224", "vit_small_patch16_dinov3"]
)
@torch.no_grad()
def test_other_image_sizes_take_the_codes_of_their_own_grid(label):
    model = small(label, dynamic_img_size=True)
    x = torch.randn(2, 3, 40, 64, generator=torch.Generator().manual_seed(2))
    outputs = pruned(model).encode(x)
    assert outputs.grid == (5, 8) and torch.equal(outputs.map, model.forward_features(x)[:, -40:])
    masked, packed = (pruned(model, "svit", "preserve", execution).encode(x).map for execution in ("masked", "packed"))
    torch.testing.assert_close(packed, masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("label", ["vit_tiny_patch16_224", "eva02_base_patch14_224", "vit_base_patch16_rope_mixed_ape_224"])
@torch.no_grad()
def test_half_precision(label):
    model = small(label).bfloat16()
    x, maps = images(model, 3).bfloat16(), {}
    assert torch.equal(pruned(model)(x), model(x))
    for selector, executions in {"variance": ("masked", "gathered", "packed"), "svit": ("masked", "packed")}.items():
        maps = [pruned(model, selector, "preserve", execution).bfloat16().encode(x).map.float() for execution in executions]
        for other in maps[1:]:
            torch.testing.assert_close(other, maps[0], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("label", ["eva02_base_patch14_224", "vit_base_patch16_rope_mixed_ape_224", "vit_base_patch16_sapiens2"])
def test_training_reaches_every_parameter_of_a_rotary_block(label):
    model = pruned(small(label), "svit", "reactivate").train()
    torch.manual_seed(5)
    model(images(model.backbone, 3)).square().mean().backward()
    grads = {name: p.grad for name, p in model.backbone.named_parameters()}
    assert [name for name, g in grads.items() if g is None or not torch.isfinite(g).all() or not g.any()] == []


@torch.no_grad()
def test_a_distilled_deit_answers_with_the_mean_of_both_heads_and_keeps_both_tokens():
    model = small("deit_tiny_distilled_patch16_224")
    ours, x = pruned(model, "evit", "remove"), images(model)
    outputs = ours.encode(x)
    both = (model.head(outputs.prefix[:, 0]) + model.head_dist(outputs.prefix[:, 1])) / 2
    assert ours.prefix_tokens == 2 and torch.equal(ours(x), both)
    model.set_distilled_training(True)
    apart = ours.train().logits(outputs)
    assert len(apart) == 2 and torch.equal((apart[0] + apart[1]) / 2, both)


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "map"])
@pytest.mark.parametrize("label", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
@torch.no_grad()
def test_pooling_is_the_models_own_over_what_is_left(label, pooling):
    model = small(label, global_pool=pooling)
    ours, x = pruned(model, "variance", "remove"), images(model)
    outputs = ours.encode(x)
    left = torch.stack([map_[there] for map_, there in zip(outputs.map, outputs.present, strict=True)])
    torch.testing.assert_close(ours(x), model.forward_head(torch.cat([outputs.prefix, left], 1)))


@torch.no_grad()
def test_an_added_class_token_is_not_pooled():
    """It is a selector's tool: the mean stays that of the patch tokens, however the batch is computed."""
    model = small("vit_base_patch16_siglip_gap_224")
    x = images(model, 3)
    masked, gathered = (pruned(model, "evit", "remove", execution, cls="random") for execution in ("masked", "gathered"))
    outputs = gathered.encode(x)
    left = torch.stack([map_[there] for map_, there in zip(outputs.map, outputs.present, strict=True)])
    assert outputs.prefix.shape[1] == 1
    torch.testing.assert_close(gathered.logits(outputs), model.forward_head(left))
    torch.testing.assert_close(gathered(x), masked(x), atol=1e-5, rtol=1e-5)
