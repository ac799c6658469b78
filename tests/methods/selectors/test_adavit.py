"""AdaViT against full matrices with heads, sub-layers and tokens masked by hand, and its loss and MACs by formula."""

from dataclasses import replace

import pytest
import torch

import tokenprune
from tests.helpers.pairings import DEPTH, images, label, pruned, tiny_vit
from tests.methods.selectors.test_formulas import attention_of
from tokenprune.engine.blocks import adapt
from tokenprune.engine.blocks.switched import switched
from tokenprune.engine.packing import Packing
from tokenprune.errors import InvalidConfig
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.measure.speed import seconds_per_image
from tokenprune.methods.losses.adaptive_usage import AdaptiveUsageLoss
from tokenprune.methods.selectors.adavit import gumbel_sigmoid

FREE = {"name": "free"}


def model_of(execution="auto", **options):
    return pruned("adavit", "reactivate", FREE, execution, **options)


def forced(model, heads=None, sublayers=None, patches=None):
    """Set the bias of policies so high or low that they always say the same; None leaves a policy as it is."""
    with torch.no_grad():
        for selector in model.selectors.values():
            for layer, value in ((selector.heads, heads), (selector.sublayers, sublayers), (selector.patches, patches)):
                if value is not None:
                    layer.weight.zero_()
                    layer.bias.copy_(torch.as_tensor(value, dtype=torch.float32) * 40 - 20)
    return model


def by_hand(model, vit, x, released=False):
    """Return the class token's and the patches' values after the last block, by the definition, image by image."""
    tokens = vit._pos_embed(vit.patch_embed(x))
    for number, block in enumerate(vit.blocks):
        if number == 0 and not released:
            tokens = block(tokens)
            continue
        s = model.selectors[str(number)]
        for b in range(len(x)):
            one = tokens[b : b + 1]
            heads, attends, feeds = torch.ones(1, 3, dtype=torch.bool), True, True
            if number > 0:
                heads = torch.sigmoid(s.heads(one[:, 0])) > 0.5
                attends, feeds = (torch.sigmoid(s.sublayers(one[0, 0])) > 0.5).tolist()
            normed = (one[0, 1:] - one[0, 1:].mean(-1, keepdim=True)) / (one[0, 1:].var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
            chosen = torch.sigmoid(normed @ s.patches.weight[0] + s.patches.bias) > 0.6
            assert chosen.any() or released
            at = torch.cat([torch.tensor([0]), chosen.nonzero().flatten() + 1])
            some = one[:, at]
            attention, v, _ = attention_of(vit, number, some)
            out = (attention @ v) * heads.view(1, -1, 1, 1)
            some = some + attends * block.attn.proj(out.transpose(1, 2).flatten(2))
            some = some + feeds * block.mlp(block.norm2(some) * (heads.repeat_interleave(8, 1) if released else 1.0))
            tokens = tokens.clone()
            tokens[b, at] = some[0]
    return tokens


def test_values_are_those_of_the_definition():
    vit, x = tiny_vit(), images(4)
    for execution in ("masked", "packed"):
        model = model_of(execution, vit=vit)
        with torch.no_grad():
            expected, outputs = vit.norm(by_hand(model, vit, x)), model.encode(x)
        torch.testing.assert_close(outputs.map, expected[:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs.prefix, expected[:, :1], atol=1e-5, rtol=1e-5)
    branches = [payload for name, _, payload in outputs.aux if name == "branch"]
    assert [b for name, b, _ in outputs.aux if name == "branch"] == list(range(1, DEPTH))
    gates = torch.cat([torch.cat(b[:2], 1) for b in branches])
    assert 0.2 < gates.mean() < 0.8 and len(gates.unique(dim=0)) > 4  # the example switches parts of all kinds on and off


@pytest.mark.parametrize("patches", [None, 0])
def test_the_released_variant_narrows_the_mlp_and_lets_the_class_token_alone_stay(patches):
    vit, x = tiny_vit(), images(4)
    for execution in ("masked", "packed"):
        model = pruned({"name": "adavit", "variant": "released"}, "reactivate", {"name": "free", "start": 0}, execution, vit)
        with torch.no_grad():
            if patches is not None:
                for selector in model.selectors.values():
                    selector.patches.weight.zero_()
                    selector.patches.bias.fill_(-20.0)
            expected, outputs = vit.norm(by_hand(model, vit, x, released=True)), model.encode(x)
        torch.testing.assert_close(outputs.map, expected[:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs.prefix, expected[:, :1], atol=1e-5, rtol=1e-5)
    assert not hasattr(model.selectors["0"], "heads") and [b for name, b, _ in outputs.aux if name == "branch"] == list(range(1, DEPTH))
    assert patches is None or all((used.attended == 1).all() for used in outputs.usage)


def test_a_narrowed_mlp_costs_less():
    model = pruned({"name": "adavit", "variant": "released"}, "reactivate", {"name": "free", "start": 0})
    with torch.no_grad():
        outputs = model.encode(images(3))
        narrowed = encoder_macs(model, outputs)
        wide = encoder_macs(model, replace(outputs, state=outputs.state.replace(aux=tuple(widened(outputs.aux)))))
    C, spared = 24, 0.0
    branches = {block: branch for name, block, branch in outputs.aux if name == "branch"}
    for number, branch in branches.items():
        fed = outputs.usage[number].fed
        off = 1 - branch.heads.mean(1)
        spared += float((fed * branch.sublayers[:, 1] * off * 4 * C * C).mean())
    assert spared > 0 and wide.linear - narrowed.linear == pytest.approx(spared)


def widened(aux):
    """Return the notes of a pass whose MLPs see all channels."""
    return [(name, block, payload._replace(narrows=False) if name == "branch" else payload) for name, block, payload in aux]


def test_with_everything_on_it_is_the_dense_model():
    vit, x = tiny_vit(), images(2)
    with torch.no_grad():
        for execution in ("masked", "packed"):
            assert torch.equal(forced(model_of(execution, vit=vit), 1, 1, 1)(x), vit(x))


@pytest.mark.parametrize(("on", "parts"), [((0, 0), ()), ((1, 0), ("attn",)), ((0, 1), ("mlp",))], ids=str)
def test_a_sublayer_that_is_off_leaves_the_stream_as_it_is(on, parts):
    vit, x = tiny_vit(), images(2)
    model = forced(model_of(vit=vit), 1, on, 1)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, DEPTH)
        tokens = vit.blocks[0](vit._pos_embed(vit.patch_embed(x)))
        for block in vit.blocks[1:]:
            if "attn" in parts:
                tokens = tokens + block.attn(block.norm1(tokens))
            if "mlp" in parts:
                tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(state.sequence(), tokens)
    assert state.branch is None


def test_one_patch_stays_and_the_others_do_not_change():
    model, x = forced(model_of("packed"), 1, 1, 0), images(2)
    with torch.no_grad():
        start, _ = model.run(model.start(x), 0, 1)
        state, usage = model.run(start, 1, DEPTH)
        changed = (state.dense() != start.dense()).any(-1)
    assert all((u.attended == 2).all() for u in usage) and (changed.sum(1) == 1).all()


def test_what_an_unselected_token_holds_changes_nobody_else():
    model, x = model_of(), images(3)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 2)
        seen = []
        model.watch = lambda block, s: seen.append(s)
        model.run(state, 2, 3)
        used = torch.zeros(3, 64, dtype=torch.bool)
        for b in range(3):
            used[b, seen[0].index[b][seen[0].live[b]]] = True
        model.watch = None
        louder = state.dense().where(used.unsqueeze(-1), state.dense() * 3)  # the norm before the policy undoes a factor
        (a, _), (b, _) = (model.run(s, 2, 3) for s in (state, state.with_dense(louder)))
    assert not used.all() and torch.equal(a.prefix, b.prefix) and torch.equal(a.dense()[used], b.dense()[used])
    assert torch.equal(b.dense()[~used], louder[~used])


def test_gumbel_sigmoid_draws_with_the_probability_of_its_threshold_and_passes_the_soft_gradient():
    torch.manual_seed(0)
    logits = torch.full((200_000,), 0.7, requires_grad=True)
    for threshold, expected in ((0.5, torch.tensor(0.7)), (0.6, torch.tensor(0.7 - 5 * 0.405465))):
        gate = gumbel_sigmoid(logits, 5.0, threshold)
        assert set(gate.round(decimals=5).unique().tolist()) == {0.0, 1.0}
        assert float(gate.detach().mean()) == pytest.approx(float(expected.sigmoid()), abs=0.005)
    torch.manual_seed(1)
    (gradient,) = torch.autograd.grad(gumbel_sigmoid(logits, 5.0, 0.5).sum(), logits)
    assert (gradient > 0).all() and gradient.max() <= 0.25 / 5 + 1e-7


def test_every_policy_learns_from_the_task_alone():
    model = model_of().train()
    torch.manual_seed(2)
    outputs = model.encode(images(3))
    (outputs.map.square().mean() + model.logits(outputs).square().mean()).backward()
    for number, selector in model.selectors.items():
        for name in ("heads", "sublayers", "patches"):
            gradient = getattr(selector, name).weight.grad
            assert gradient.isfinite().all() and gradient.abs().sum() > 0, (number, name)


def test_the_loss_by_formula():
    torch.manual_seed(3)
    heads, sublayers, tokens = (torch.rand(2, 4, k).round() for k in (3, 2, 10))
    sublayers[0, 1], sublayers[1, 2] = 0, torch.tensor([0.0, 1.0])
    tokens[1, 3] = 0
    loss = AdaptiveUsageLoss(weight=3.0, heads=0.2, layers=0.9, tokens=0.4, token_minimum=0.3, minimum_weight=0.5)

    class Model:
        aux = [("branch", n, (heads[:, n], sublayers[:, n])) for n in range(4)]
        aux += [("usage", n, (tokens[:, n].mean(-1), 1.0)) for n in range(4)]

    runs = [(b, n) for b in range(2) for n in range(4) if sublayers[b, n].sum() > 0]
    assert len(runs) < 8
    used = sum(float(heads[b, n].sum()) for b, n in runs) / (3 * len(runs))
    short = sum(max(0.3 - float(tokens[b, n].mean()), 0) for b in range(2) for n in range(4))
    expected = 3 * (abs(used - 0.2) + abs(float(sublayers.mean()) - 0.9) + (float(tokens.mean()) - 0.4) ** 2 + 0.5 * short)
    assert short > 0 and float(loss.loss(tokenprune.engine.loss.LossInputs(Model, None))) == pytest.approx(expected)


def test_the_loss_alone_reaches_every_policy_and_pulls_it_to_its_target():
    model = forced(model_of(losses={"adaptive_usage": {"heads": 0.1, "layers": 0.1, "tokens": 0.1}}), 0.55, 0.55, 0.55).train()
    torch.manual_seed(4)
    model.losses(model.encode(images(3)))["loss_adaptive_usage"].backward()
    for selector in model.selectors.values():
        assert all((layer.bias.grad > 0).all() for layer in (selector.heads, selector.sublayers, selector.patches))  # down


@pytest.mark.parametrize("options", [{"heads": 1.5}, {"weight": -1.0}, {"token_minimum": float("nan")}], ids=label)
def test_impossible_targets_are_refused(options):
    with pytest.raises(InvalidConfig, match=f"losses.adaptive_usage.{next(iter(options))} is"):
        AdaptiveUsageLoss(**options)


def test_macs_are_those_of_what_was_switched_on():
    vit, x = tiny_vit(), images(3)
    model = model_of(vit=vit)
    with torch.no_grad():
        outputs = model.encode(x)
    C, hidden, linear, products = 24, 96, 0.0, 0.0
    branches = {block: payload for name, block, payload in outputs.aux if name == "branch"}
    for number, used in enumerate(outputs.usage):
        heads, sublayers = branches.get(number, (torch.ones(3, 3), torch.ones(3, 2)))[:2]
        for b in range(3):
            T, share = int(used.attended[b]), float(heads[b].sum()) / 3 * float(sublayers[b, 0])
            linear += T * share * 4 * C * C + T * float(sublayers[b, 1]) * 2 * C * hidden
            products += 2 * T * T * C * share
    macs = encoder_macs(model, outputs)
    assert macs.linear - macs.embedding == pytest.approx(linear / 3) and macs.attention == pytest.approx(products / 3)
    assert macs.selector == pytest.approx((DEPTH - 1) * (64 + 3 + 2) * C)
    assert macs.kept_per_block[0] == 1 and 0 < min(macs.kept_per_block) < 1
    dense = encoder_macs(tokenprune.prune(vit), tokenprune.prune(vit).encode(x))
    assert planned_macs(model, 64).linear == dense.linear and macs.linear < dense.linear  # the plan is the upper bound


def test_no_seconds_are_claimed():
    times = seconds_per_image(model_of(), lambda image: image, [(images(1), images(1))], torch.device("cpu"))
    assert times["seconds_encoder"] is None and times["speedup_encoder"] is None and "computed all the same" in times["seconds_note"]


def test_without_a_branch_a_block_is_itself_and_with_one_it_is_still_an_adapter():
    block = adapt(tiny_vit()).blocks[1]
    assert switched(block, None) is block
    wrapped = switched(block, (torch.ones(2, 3), torch.ones(2, 2)))
    assert wrapped.heads == 3 and wrapped.macs(1.0, 1.0, 1.0, 1.0) == block.macs(1.0, 1.0, 1.0, 1.0)


def test_packed_images_use_their_own_heads_and_sublayers():
    block = adapt(tiny_vit()).blocks[1]
    torch.manual_seed(5)
    x, lengths = torch.randn(1, 12, 24), [3, 7, 2]
    packing = Packing(torch.arange(6) < torch.tensor([[2], [6], [1]]), 1, tuple(lengths))
    heads, sublayers = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 0]]), torch.tensor([[1.0, 1], [1, 0], [0, 1]])
    with torch.no_grad():
        packed = switched(block, (heads, sublayers))
        together = packed.attend_ragged(packed.project(x), packing, packing, None), packed.feed(x)
        for b, one in enumerate(x.split(lengths, 1)):
            alone = switched(block, (heads[b : b + 1], sublayers[b : b + 1]))
            for whole, own in zip(together, (alone.attend(alone.project(one)), alone.feed(one)), strict=True):
                torch.testing.assert_close(whole.split(lengths, 1)[b], own)
    assert (together[0][:, 10:] == 0).all() and (together[1][:, 3:10] == 0).all() and (together[0][:, :10] != 0).all()
