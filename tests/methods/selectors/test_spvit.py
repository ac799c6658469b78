"""SPViT by its definitions: loops over heads, masked sums, counts."""

import math

import pytest
import timm
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import tokenprune
from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.errors import InvalidConfig
from tokenprune.measure.usage import record
from tokenprune.methods.selectors.spvit import HeadwiseGate
from tokenprune.training.calibration import calibrate

STAGES = {"name": "explicit", "keep": {1: 0.617, 2: 0.369, 4: 0.137}}


def gate(dim=24, heads=3):
    torch.manual_seed(6)
    made = HeadwiseGate(dim, heads)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
    return made


def by_hand(made, tokens, policy):
    """Return (B,M,2) summed log-probabilities and probabilities, head after head as the paper writes them."""
    heads, d = made.heads, tokens.shape[-1] // made.heads
    first, second, third, fourth = (layer for layer in made.modules() if isinstance(layer, torch.nn.Conv1d))
    part = lambda p, h, n: p[h * n : (h + 1) * n]  # noqa: E731
    means = torch.stack([tokens[..., h * d : (h + 1) * d].mean(-1) for h in range(heads)], -1)
    squeezed = F.gelu(means @ made.vote[0].weight.T + made.vote[0].bias)
    votes = torch.sigmoid(squeezed @ made.vote[2].weight.T + made.vote[2].bias)
    scores, probs = 0, 0
    for h in range(heads):
        x = tokens[..., h * d : (h + 1) * d]
        x = F.layer_norm(x, (d,), part(made.norm.weight, h, d), part(made.norm.bias, h, d), 1e-5)
        x = F.gelu(x @ part(first.weight, h, d)[..., 0].T + part(first.bias, h, d))
        mean = (x[..., d // 2 :] * policy.unsqueeze(-1)).sum(1, keepdim=True) / policy.sum(1).view(-1, 1, 1)
        x = torch.cat([x[..., : d // 2], mean.expand(-1, x.shape[1], -1)], -1)
        for layer, n, act in ((second, d // 2, F.gelu), (third, d // 4, F.gelu), (fourth, 2, lambda v: v)):
            x = act(x @ part(layer.weight, h, n)[..., 0].T + part(layer.bias, h, n))
        weight = votes[..., h : h + 1] / votes.sum(-1, keepdim=True)
        scores, probs = scores + weight * x.log_softmax(-1), probs + weight * x.softmax(-1)
    return scores, probs


def test_gate_by_hand():
    made, tokens = gate(), torch.randn(2, 7, 24)
    policy = torch.tensor([[1.0, 1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0, 1]])
    with torch.no_grad():
        log_probs, probs = made(tokens, policy)
        scores, expected = by_hand(made, tokens, policy)
    torch.testing.assert_close(log_probs, scores.log_softmax(-1), atol=1e-5, rtol=1e-5)  # Gumbel-softmax does not see the norm
    torch.testing.assert_close(probs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 7))
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 7))


def test_each_head_has_a_classifier_of_its_own():
    """The released code repeats one module: there, all heads would learn from a gradient at one."""
    made, tokens = gate(), torch.randn(1, 5, 24)
    before = made(tokens, torch.ones(1, 5))[1]
    others = tokens.clone()
    others[..., 8:] = 0
    made.vote[2].weight.data.zero_()
    made.vote[2].bias.data.copy_(torch.tensor([20.0, -200.0, -200.0]))  # the first head alone votes
    only, same = made(tokens, torch.ones(1, 5))[1], made(others, torch.ones(1, 5))[1]
    torch.testing.assert_close(only, same)
    assert not torch.allclose(only, before)
    grad = torch.autograd.grad(only[..., 0].sum(), made.out[0].weight)[0].unflatten(0, (3, -1)).flatten(1).abs().sum(1)
    assert grad[0] > 0 and torch.equal(grad[1:], torch.zeros(2))


def test_parameters_and_macs_on_deit_small():
    model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), "spvit")
    h, d = 6, 64
    classifier = 2 * d + d * d + d + d * d // 2 + d // 2 + d * d // 8 + d // 4 + 2 * d // 4 + 2
    assert sum(p.numel() for p in model.selectors.parameters()) == 3 * (h * classifier + 2 * h * (h // 2) + h // 2 + h)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.selectors["3"].gate(torch.randn(1, 196, 384), torch.ones(1, 196))
    assert counter.get_total_flops() / 2 == model.selectors["3"].macs(196) == 196 * (h * (d * d * 13 // 8 + d // 2) + h * h)
    assert [(b.block, b.keep) for b in model.budgets(196).values()] == [(3, 120), (6, 72), (9, 26)]


def test_the_package_is_the_masked_sum_and_stays():
    """Token counts are kept positions, one package of each stage so far, and the class token."""
    model, x = pruned("spvit", "fuse", STAGES, "packed"), images(3)
    for number, selector in model.selectors.items():
        torch.nn.init.normal_(selector.gate.out[-1].weight, std=30.0, generator=torch.Generator().manual_seed(int(number)))
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 1)
        packed = []
        for stage, block in enumerate((1, 2, 4), 1):
            log_probs, probs = model.selectors[str(block)].gate(state.tokens, state.live.float())
            own = state.live & (state.index >= 0)
            drop = own & (log_probs[..., 0].exp() <= 0.5)
            keep = own & ~drop
            entering = []
            hook = model.backbone.blocks[block].norm1.register_forward_pre_hook(lambda _, i: entering.append(i[0]))  # noqa: B023
            expected = [sum(probs[b, j, 0] * state.tokens[b, j] for j in drop[b].nonzero()[:, 0].tolist()) for b in range(3)]
            assert drop.any(1).all() and keep.any(1).all()
            state, used = model.run(state, block, block + 1)
            hook.remove()
            lengths = used[0].attended.tolist()
            assert lengths == (keep.sum(1) + stage + 1).tolist()
            ends = torch.tensor(lengths).cumsum(0) - 1  # the newest package is the last token of its image
            torch.testing.assert_close(entering[0][0, ends], torch.stack(expected), atol=1e-5, rtol=1e-5)
            packed.append((state.index == -1) & state.live)
            if block == 2:
                state, _ = model.run(state, 3, 4)
        assert [int(p.sum(1).unique()) for p in packed] == [1, 2, 3]


def test_where_nothing_is_dropped_there_is_no_package():
    """The released model has one then too, a zero token that softens every attention, and differs from the dense one."""
    vit, x = tiny_vit(), images(2)
    model = pruned("spvit", "fuse", STAGES, vit=vit)
    for selector in model.selectors.values():
        selector.threshold.fill_(-1.0)
    with torch.no_grad():
        outputs = model.encode(x)
        torch.testing.assert_close(model(x), vit(x), atol=1e-5, rtol=1e-5)
    assert outputs.present.all() and all((used.attended == 65).all() for used in outputs.usage)


def test_in_training_packages_are_seen_and_dropped_tokens_are_not():
    model, x = pruned("spvit", "fuse", STAGES).train(), images(3)
    torch.manual_seed(1)
    state, _ = model.run(model.start(x), 0, 1)
    entering = state
    state, _ = model.run(state, 1, 2)
    probs = model.selectors["1"].gate(entering.tokens, torch.ones(3, 64))[1]
    assert state.tokens.shape[1] == 65 and torch.equal(state.gate[:, :64] > 0.5, state.live[:, :64]) and state.live[:, 64].all()
    weight = probs[..., 0] * ~state.live[:, :64]
    block = model.backbone.blocks[1]
    sequence = torch.cat([entering.sequence(), (weight.unsqueeze(1) @ entering.tokens)], 1)
    seen = torch.cat([torch.ones(3, 1, dtype=torch.bool), state.live], 1)
    mask = (seen.unsqueeze(1) | torch.eye(66, dtype=torch.bool)).unsqueeze(1)
    y = sequence + block.attn(block.norm1(sequence), attn_mask=torch.zeros(3, 1, 66, 66).masked_fill(~mask, -math.inf))
    y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(state.sequence(), y, atol=1e-4, rtol=1e-4)
    again, _ = model.run(state, 2, 6)
    assert again.tokens.shape[1] == 67 and again.live[:, 64].all()  # the first package is still there, and no fate is undone
    assert (again.live[:, :64] <= state.live[:, :64]).all()
    usage = [payload[0] for name, _, payload in again.aux if name == "usage"]
    torch.testing.assert_close(usage[0].detach(), state.live[:, :64].float().mean(1))  # packages are no usage of positions


def test_gates_learn_from_what_they_pack():
    """d package / d gate is minus the token times its weight, for every candidate, kept or dropped (as (previous - keep) in the code)."""
    from tokenprune.engine.decision import Decision
    from tokenprune.engine.state import TokenState
    from tokenprune.engine.treatment import amounts

    state = TokenState.start(torch.zeros(1, 0, 4), torch.randn(1, 6, 4), (2, 3))
    keep = torch.tensor([[True, False, True, False, False, True]])
    gate_, weight = keep.float().requires_grad_(), torch.rand(1, 6)
    amount = amounts(state, Decision(keep, score=torch.rand(1, 6), weight=weight, gate=gate_), ~keep)
    assert torch.equal(amount.detach(), weight * ~keep)
    assert torch.equal(torch.autograd.grad(amount.sum(), gate_)[0], -weight)


def test_calibration_counts_positions_and_not_packages():
    model, batches = pruned("spvit", "fuse", STAGES), [images(5), images(3, seed=7)]
    for selector in model.selectors.values():  # at first all scores are alike
        torch.nn.init.normal_(selector.gate.out[-1].weight, std=30.0, generator=torch.Generator().manual_seed(0))
    calibrate(model, model.encode, batches)
    with torch.no_grad(), record(model) as seen:
        for batch in batches:
            model.encode(batch)
    used = torch.stack([image.blocks.double().mean(1) for image in seen.images]).mean(0).tolist()
    assert used == pytest.approx([1.0, 0.617, 0.369, 0.369, 0.137, 0.137], abs=1 / 64)
    assert all(s.caveat == "" for s in model.selectors.values())


def test_top_k_counts_packages_among_its_tokens():
    model = pruned({"name": "spvit", "eval_mode": "topk"}, "fuse", STAGES)
    with torch.no_grad():
        outputs = model.encode(images(2))
    assert [int(u.fed[0]) for u in outputs.usage] == [65, 1 + 39 + 1, 1 + 23 + 1, 25, 1 + 8 + 1, 10]
    assert ((outputs.state.index == -1) & outputs.state.live).sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("options", [{"eval_mode": "argmax"}, {"calibration_images": -1}])
def test_options_that_do_not_exist_are_refused(options):
    with pytest.raises(InvalidConfig, match="spvit: .*allowed"):
        pruned({"name": "spvit", **options}, "fuse")
