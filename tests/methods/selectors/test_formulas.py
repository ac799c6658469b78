"""Each selector against an independent formula: plain loops and full matrices, never the code under test."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune
from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.observation import Observation
from tokenprune.engine.selector import keep_top
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig, InvalidSchedule, TokenPruneError
from tokenprune.methods.losses.ratio import RatioLoss
from tokenprune.methods.selectors.ats import inverse_transform
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.methods.selectors.shared.noise import image_noise


def attention_of(vit, block, x):
    """Return softmax(q k^T) of a block as a full matrix (B,h,T,T), and its values (B,h,T,d)."""
    attn = vit.blocks[block].attn
    qkv = attn.qkv(vit.blocks[block].norm1(x)).reshape(len(x), x.shape[1], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return (qkv[0] @ qkv[1].transpose(-1, -2) * attn.scale).softmax(-1), qkv[2], qkv[1]


def entering(vit, block, x):
    """Return the sequence that enters a block of the dense model."""
    seen = []
    handle = vit.blocks[block].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        vit(x)
    handle.remove()
    return seen[0]


def observed(vit, block, x):
    model = tokenprune.prune(vit)
    tokens = entering(vit, block, x)
    state = TokenState.start(tokens[:, :1], tokens[:, 1:], (8, 8), x)
    with torch.no_grad():
        return Observation(state, block, model.family.blocks[block].project(tokens))


def test_observation_rows_are_those_of_the_full_matrix():
    vit, x = tiny_vit(), images(2)
    seen = observed(vit, 2, x)
    with torch.no_grad():
        attention, v, k = attention_of(vit, 2, entering(vit, 2, x))
    torch.testing.assert_close(seen.cls_row(), attention[:, :, 0, 1:])
    torch.testing.assert_close(seen.column_mean(), attention.mean(2)[:, :, 1:])
    torch.testing.assert_close(seen.value_norms(), v.transpose(1, 2).flatten(2).norm(dim=-1)[:, 1:])
    torch.testing.assert_close(seen.summed_keys(), 3 * k.mean(1)[:, 1:])
    assert seen.pixels().shape == (2, 64, 3, 16)
    torch.testing.assert_close(seen.pixels()[1, 9, 2], x[1, 2, 4:8, 4:8].flatten())


def test_evit_keeps_the_top_of_the_class_row_and_fuses_the_rest():
    vit, x = tiny_vit(), images(2)
    model = pruned("evit", "fuse", {"name": "stages", "blocks": [2], "of": "current", "rounding": "ceil"}, vit=vit)
    tokens = entering(vit, 2, x)
    with torch.no_grad():
        score = attention_of(vit, 2, tokens)[0].mean(1)[:, 0, 1:]
        after = (tokens + vit.blocks[2].attn(vit.blocks[2].norm1(tokens)))[:, 1:]
        state, _ = model.run(model.start(x), 0, 2)
        fused_before_mlp = []
        hook = vit.blocks[2].norm2.register_forward_pre_hook(lambda _, inputs: fused_before_mlp.append(inputs[0]))
        state, _ = model.run(state, 2, 3)
        hook.remove()
    for b in range(2):
        kept = np.argsort(-score[b].numpy(), kind="stable")[:45]  # ceil(.7 * 64)
        assert sorted(state.index[b, :-1].tolist()) == sorted(kept.tolist()) and state.index[b, -1] == -1
        dropped = sorted(set(range(64)) - set(kept.tolist()))
        expected = sum(score[b, j] * after[b, j] for j in dropped)
        torch.testing.assert_close(fused_before_mlp[0][b, -1], expected)


@pytest.mark.parametrize("score", ("cls", "column_mean"))
def test_attn_topk_keeps_what_the_block_before_attended_to(score):
    vit, x = tiny_vit(), images(2)
    model = pruned({"name": "attn_topk", "score": score}, "preserve", {"name": "explicit", "keep": {3: 20}}, vit=vit)
    with torch.no_grad():
        full = attention_of(vit, 2, entering(vit, 2, x))[0].mean(1)
        state, _ = model.run(model.start(x), 0, 4)
    received = (full[:, 0] if score == "cls" else full.mean(1))[:, 1:]
    for b in range(2):
        kept = np.argsort(-received[b].numpy(), kind="stable")[:20]
        assert sorted(state.index[b].tolist()) == sorted(kept.tolist())
    dropped = ~state.present()
    torch.testing.assert_close(state.dense()[dropped], entering(vit, 3, x)[:, 1:][dropped])  # they have been through all of block 2


def test_attn_topk_has_nothing_to_read_at_the_first_block():
    with pytest.raises(InvalidSchedule, match="block 0 has none; set schedule.start=1"):
        pruned("attn_topk", "preserve", {"name": "explicit", "keep": {0: 20}})


def nearest_by_hand(score, samples):
    """Return kept indices by the definition: sort, cumulate, min-max, equidistant points, nearest entry."""
    order = sorted(range(len(score)), key=lambda j: score[j])
    cdf = np.cumsum([score[j] for j in order])
    cdf = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
    lowest = min(c for c in cdf if c > 0)
    points = np.linspace(lowest, 1, samples) if samples > 1 else [1.0]
    return {order[int(np.abs(p - cdf).argmin())] for p in points}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 60), st.integers(1, 60), st.sampled_from([1, 5, 20]))
def test_ats_equals_brute_force(seed, count, samples, peak):
    score = torch.rand(1, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** peak + 1e-9
    score = score / score.sum()
    keep = inverse_transform(score, torch.ones(1, count, dtype=torch.bool), samples)
    assert set(keep[0].nonzero().flatten().tolist()) == nearest_by_hand(score[0].tolist(), samples)


def test_ats_at_detection_size_equals_brute_force_and_dead_slots_change_nothing():
    score = torch.rand(1, 4200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = score / score.sum()
    everyone = torch.ones(1, 4200, dtype=torch.bool)
    keep = inverse_transform(score, everyone, 2940)
    assert set(keep[0].nonzero().flatten().tolist()) == nearest_by_hand(score[0].tolist(), 2940)
    live = torch.rand(1, 4200, generator=torch.Generator().manual_seed(1)) < 0.3
    alone = inverse_transform(score[live].view(1, -1), everyone[:, : int(live.sum())], 700)
    assert torch.equal(inverse_transform(score.where(live, 0), live, 700)[live], alone[0])


def test_ats_laws():
    flat = torch.full((1, 196), 1 / 196, dtype=torch.float64)
    everyone = torch.ones(1, 196, dtype=torch.bool)
    assert inverse_transform(flat, everyone, 196).sum() == 195  # the least token cannot be reached
    peaky = torch.full((1, 196), 1e-9, dtype=torch.float64)
    peaky[0, 50] = 1.0
    hit = inverse_transform(peaky / peaky.sum(), everyone, 98)
    assert hit[0, 50] and hit.sum() < 5


def test_dynamicvit_predictor_by_hand_and_parameter_counts():
    import timm

    model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), "dynamicvit")
    assert sum(p.numel() for p in model.selectors.parameters()) == 723_750
    gates = tokenprune.prune(timm.create_model("deit_small_patch16_224"), "svit")
    assert sum(p.numel() for p in gates.selectors.parameters()) == 341_298
    tiny = tokenprune.prune(timm.create_model("deit_tiny_patch16_224"), "svit")
    assert sum(p.numel() for p in tiny.selectors.parameters()) == 87_714
    predictor, x = model.selectors["3"].gate, torch.randn(1, 5, 384)
    policy = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
    with torch.no_grad():
        hidden = predictor.into(x)
        mean = (hidden[0, 0, 192:] + hidden[0, 2, 192:] + hidden[0, 3, 192:]) / 3
        expected = predictor.out(torch.cat([hidden[0, 1, :192], mean])).log_softmax(-1)
        torch.testing.assert_close(predictor(x, policy)[0, 1], expected)
        assert torch.isfinite(predictor(x, torch.zeros(1, 5))).all()  # nothing kept: no 0/0


def test_the_complex_gate_of_table_4_is_dynamicvits_predictor_at_svits_blocks():
    import timm

    model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), {"name": "svit", "gate": "complex"})
    assert sorted(map(int, model.selectors)) == list(range(3, 12))
    assert sum(p.numel() for p in model.selectors.parameters()) == 9 * 723_750 // 3
    assert model.selectors["3"].macs(10) == 10 * (384**2 + 384**2 / 2 + 384**2 / 8 + 192)
    assert model.selectors["3"].visibility != "soft"  # SViT's training, hard masks and one blend a block


@pytest.mark.parametrize("options", [{"gate": "mpl"}, {"eval_mode": "thresh"}, {"calibration_images": -1}])
def test_svit_refuses_options_that_do_not_exist(options):
    with pytest.raises(InvalidConfig, match="allowed"):
        pruned({"name": "svit", **options}, "reactivate")


def test_sampling_at_test_time_repeats_and_keeps_each_token_with_its_probability():
    x = images(8)
    model = pruned({"name": "svit", "eval_mode": "sample"}, "reactivate", {"name": "explicit", "keep": {2: 0.7}}, "masked")
    other = pruned({"name": "svit", "eval_mode": "sample", "seed": 1}, "reactivate", {"name": "explicit", "keep": {2: 0.7}}, "masked")
    with torch.no_grad():
        first, again, changed = model.encode(x), model.encode(x), other.encode(x)
        state, _ = model.run(model.start(x), 0, 2)
        p = model.selectors["2"].gate(state.tokens, state.live.float())[..., 0].exp()
    assert torch.equal(first.map, again.map) and not torch.equal(first.state.live, changed.state.live)
    spread = (p * (1 - p)).sum().sqrt()
    assert abs(first.state.live.sum() - p.sum()) < 4 * spread


def test_dynamicvit_training_masks_are_nested_and_follow_the_policy():
    model = pruned("dynamicvit", "remove").train()
    torch.manual_seed(0)
    state, _ = model.run(model.start(images(3)), 0, 2)
    first = state.live.clone()
    state, _ = model.run(state, 2, 6)
    assert (state.live <= first).all() and state.tokens.shape[1] == 64  # every token stays in the sequence
    usages = [payload for name, _, payload in state.aux if name == "usage"]
    assert len(usages) == 3 and all(0 < u.mean() < 1 for u, _ in usages)
    assert [t for _, t in usages] == pytest.approx([0.7, 0.49, 0.343])


def test_policy_of_ones_is_plain_softmax_and_zero_hides_a_key():
    from tokenprune.engine.blocks.base import policy_attention

    vit, x = tiny_vit(), images(2)
    block = tokenprune.prune(vit).family.blocks[1]
    tokens = entering(vit, 1, x)
    with torch.no_grad():
        p = block.project(tokens)
        full, v, _ = attention_of(vit, 1, tokens)
        ones = policy_attention(p.q, p, None, torch.ones(2, 65))
        torch.testing.assert_close(ones, full @ v, atol=1e-5, rtol=1e-5)
        policy = torch.ones(2, 65)
        policy[:, 10] = 0
        other = policy_attention(p.q, p, None, policy)
        logits = p.q @ p.k.transpose(-1, -2) * p.scale
        logits[:, :, :, 10] = float("-inf")
        rows = [r for r in range(65) if r != 10]  # a token always sees itself
        torch.testing.assert_close(other[:, :, rows], (logits.softmax(-1) @ v)[:, :, rows], atol=1e-5, rtol=1e-5)


def test_evo_vit_average_by_hand():
    vit, x = tiny_vit(), images(2)
    model = pruned("evo_vit", "reactivate", {"name": "constant", "rate": 0.5, "start": 2}, vit=vit)
    with torch.no_grad():
        before = attention_of(vit, 1, entering(vit, 1, x))[0].sum(1)[:, 0, 1:]
        state, _ = model.run(model.start(x), 0, 2)
        torch.testing.assert_close(state.traits["running_attention"][:, 1:], before)
        kept = before.sort(dim=1, descending=True, stable=True).indices[:, :32].sort(1).values
        after, _ = model.run(state, 2, 3)
        assert torch.equal(after.index, kept)
        tokens = torch.cat([state.prefix, torch.stack([state.tokens[b, kept[b]] for b in range(2)])], 1)
        now = attention_of(vit, 2, tokens)[0].sum(1)[:, 0, 1:]
        expected = before.scatter(1, kept, 0.5 * before.gather(1, kept) + 0.5 * now)
        torch.testing.assert_close(after.traits["running_attention"][:, 1:], expected)


def tome_by_hand(keys, prefix, merged):
    """Return {source: target} of ToMe's matching over the whole sequence, class token included and protected."""
    unit = keys / keys.norm(dim=-1, keepdim=True)
    a, b = range(0, len(keys), 2), range(1, len(keys), 2)
    best = {i: max(b, key=lambda j: float(unit[i] @ unit[j])) for i in a if i >= prefix}
    ranked = sorted(best, key=lambda i: -float(unit[i] @ unit[best[i]]))
    return {i: best[i] for i in ranked[:merged]}


@pytest.mark.parametrize("prefix", [0, 1])
def test_tome_matches_by_hand_and_conserves_mass(prefix):
    vit = tiny_vit() if prefix else tiny_vit(class_token=False, global_pool="avg")
    x = images(2)
    model = pruned("tome", "merge", {"name": "explicit", "keep": {1: 50}}, vit=vit)
    tokens = entering(vit, 1, x)
    with torch.no_grad():
        keys = attention_of(vit, 1, tokens)[2].mean(1)
        after = tokens + vit.blocks[1].attn(vit.blocks[1].norm1(tokens))
        state, _ = model.run(model.start(x), 0, 1)
        seen = []
        hook = vit.blocks[1].norm2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        state, _ = model.run(state, 1, 2)
        hook.remove()
    for image in range(2):
        pairs = tome_by_hand(keys[image], prefix, 14)
        owner = state.owner[image]
        assert {i - prefix: j - prefix for i, j in pairs.items()} == {n: int(owner[n]) for n in range(64) if owner[n] != n}
        target = next(iter(pairs.values()))
        group = [target, *(i for i, j in pairs.items() if j == target)]
        slot = (state.index[image] == target - prefix).nonzero().item()
        torch.testing.assert_close(seen[0][image, slot + prefix], after[image, group].mean(0))
        assert state.mass[image, slot] == len(group)
    assert torch.equal(state.mass.sum(1), torch.full((2,), 64.0))


def test_proportional_attention_counts_a_token_as_often_as_its_mass():
    """Attention over a merged token of mass 2 equals attention over the token twice (ToMe Eq. 1)."""
    vit = tiny_vit()
    block = tokenprune.prune(vit).family.blocks[0]
    x = torch.randn(1, 6, 24)
    twice = torch.cat([x, x[:, 5:]], 1)
    with torch.no_grad():
        mass = torch.tensor([[1.0, 1, 1, 1, 1, 2]])
        once = block.attend(block.project(x), bias=mass.log())
        torch.testing.assert_close(once, block.attend(block.project(twice))[:, :6])


def test_cropr_deploy_sums_the_queries():
    model = pruned({"name": "cropr", "queries": 7}, "last_layer_fusion", "per_block")
    deployed, x = model.deploy(), images(2)
    tokens = torch.randn(2, 64, 24)
    for number, selector in model.selectors.items():
        full = sum(tokens @ q for q in selector.query)
        torch.testing.assert_close((tokens @ deployed.selectors[number].query.T)[..., 0], full, atol=1e-5, rtol=1e-5)
        assert deployed.selectors[number].query.numel() == 24
    with torch.no_grad():
        assert torch.equal(model.encode(x).present, deployed.encode(x).present)
        torch.testing.assert_close(model(x), deployed(x), atol=1e-5, rtol=1e-5)


def test_variance_ranks_patches_by_pixels():
    x = images(1)
    x[:, :, :4, :4] = 0.7  # a constant patch
    model = pruned("variance", "remove", {"name": "explicit", "keep": {1: 63}})
    with torch.no_grad():
        outputs = model.encode(x)
    assert not outputs.present[0, 0] and outputs.present.sum() == 63


@pytest.mark.parametrize("size", [(32, 32), (30, 32), (33, 41), (29, 50), (35, 35), (34, 63)])
@pytest.mark.parametrize("padded", [True, False])
def test_variance_reads_the_pixels_that_the_patches_cover(size, padded):
    """timm pads below and on the right; without padding, and without its check of the size, a convolution leaves the rest out."""
    vit = tiny_vit(dynamic_img_pad=padded)
    vit.patch_embed.img_size = None  # no check of the size
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    seen = x if not padded else torch.nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    rows, columns = seen.shape[2] // 4, seen.shape[3] // 4
    truth = torch.empty(2, rows, columns)
    for r in range(rows):
        for c in range(columns):
            truth[:, r, c] = seen[:, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].flatten(2).var(-1, unbiased=False).mean(-1)
    keep = rows * columns // 2
    model = pruned("variance", "remove", {"name": "explicit", "keep": {1: 0.5}}, vit=vit)
    with torch.no_grad():
        present = model.encode(x).present
    best = truth.flatten(1).topk(keep).indices
    assert torch.equal(present, torch.zeros_like(present).scatter(1, best, True))


def test_pixels_that_do_not_divide_into_the_grid_are_refused():
    state = TokenState.start(torch.zeros(1, 1, 8), torch.zeros(1, 64, 8), (8, 8), torch.zeros(1, 3, 30, 32))
    with pytest.raises(TokenPruneError, match="30 x 32 pixels do not divide into the grid of 8 x 8"):
        Observation(state, 1).pixels()


def test_random_is_uniform_repeatable_and_differs_between_images():
    x = images(2, seed=4)
    noise = image_noise(x, 64, 0, 3)
    assert noise.shape == (2, 64) and torch.equal(noise, image_noise(x, 64, 0, 3)) and not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, image_noise(x, 64, 1, 3)) and not torch.equal(noise, image_noise(x, 64, 0, 4))
    many = image_noise(torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 50, 0, 1).flatten().numpy()
    observed_counts = np.histogram(many, bins=20, range=(0, 1))[0]
    chi_square = ((observed_counts - 500) ** 2 / 500).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, p = .001


def test_svit_reactivation_is_not_nested_but_inheritance_is():
    x = images(4)

    def masks(treatment):
        model = pruned("svit", treatment, {"name": "every_block", "start": 1, "span": 2}, "masked")
        state, found = model.start(x), []
        with torch.no_grad():
            for block in range(6):
                state, _ = model.run(state, block, block + 1)
                found.append(state.live)
        return found

    back = masks("reactivate")
    assert any((b & ~a).any() for a, b in zip(back, back[1:], strict=False))
    nested = masks("preserve")
    assert all((b <= a).all() for a, b in zip(nested, nested[1:], strict=False))


def test_svit_blends_once_per_block():
    """The gate's gradient is (block(x) - x) of its own block, for kept and dropped tokens alike (SViT's released forward)."""
    model = pruned("svit", "reactivate", {"name": "explicit", "keep": {2: 0.7}}).train()
    torch.manual_seed(0)
    start, _ = model.run(model.start(images(1)), 0, 2)
    state, _ = model.run(start, 2, 3)
    (grad,) = torch.autograd.grad(state.tokens.sum(), state.gate, retain_graph=True)
    bias = torch.zeros(1, 1, 1, 65)
    bias[..., 1:] = torch.zeros(1, 64).masked_fill(~state.live, float("-inf"))[:, None, None, :]
    block, x = model.backbone.blocks[2], start.sequence()
    y = x + block.attn(block.norm1(x), attn_mask=bias.expand(1, 1, 65, 65))
    y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(grad, (y - x)[:, 1:].sum(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gate", ["mlp", "complex"])
@pytest.mark.parametrize("mode", ["threshold", "sample"])
def test_gates_that_want_nothing_keep_one_token_and_stay_finite(gate, mode):
    """The released SViT softmaxes over no key there, and one NaN spoils the batch."""
    options = {"gate": gate, "eval_mode": mode, "init_keep_bias": -60.0}
    model = pruned({"name": "svit", **options}, "reactivate", {"name": "explicit", "keep": {2: 0.5}})
    with torch.no_grad():
        outputs = model.encode(images(3))
    assert outputs.map.isfinite().all() and (outputs.usage[2].fed == model.prefix_tokens + 1).all()
    trained = model.train().encode(images(3))
    trained.map.square().mean().backward()
    assert trained.map.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_no_selector_keeps_nothing():
    live = torch.tensor([[True, True, False], [True, True, True]])
    keep = at_least_one(torch.zeros(2, 3, dtype=torch.bool), torch.tensor([[0.1, 0.2, 0.9], [0.5, 0.1, 0.2]]), live)
    assert keep.tolist() == [[False, True, False], [True, False, False]]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_keep_top_counts(slots, count, seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 4, (2, slots), generator=generator).float()  # many ties
    live = torch.ones(2, slots, dtype=torch.bool)
    keep = keep_top(score, live, min(count, slots)).keep
    assert (keep.sum(1) == min(count, slots)).all()
    for b in range(2):
        assert not (~keep[b]).any() or score[b][keep[b]].min() >= score[b][~keep[b]].max()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.1, 1))
def test_eq3_minus_eq2_is_the_variance_of_usage(usages, target):
    usage = torch.tensor(usages, dtype=torch.float64)
    batch = RatioLoss(1.0, "batch")([(usage, target)])
    image = RatioLoss(1.0, "image")([(usage, target)])
    assert float(image - batch) == pytest.approx(float(usage.var(unbiased=False)), abs=1e-9)


def test_ratio_loss_example():
    usage = torch.tensor([1.0, 0.4])
    assert RatioLoss(4.0, "batch")([(usage, 0.7)]).item() == pytest.approx(0.0, abs=1e-6)
    assert RatioLoss(4.0, "image")([(usage, 0.7)]).item() == pytest.approx(0.36, abs=1e-6)
