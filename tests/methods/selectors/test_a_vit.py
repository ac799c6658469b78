"""A-ViT against a plain loop over timm's blocks, token by token, and the laws of adaptive computation time."""

import pytest
import torch

import tokenprune
from tests.helpers.pairings import DEPTH, images, pruned, tiny_vit
from tests.methods.selectors.test_formulas import attention_of
from tokenprune.errors import InvalidConfig
from tokenprune.measure.usage import record
from tokenprune.methods.losses.ponder import PonderLoss
from tokenprune.methods.selectors.shared.halting import DEPTH as TRAIT_DEPTH

HALTING = {"name": "a_vit", "gamma": 5.0, "beta": 1.0}
NEVER = {"name": "a_vit", "gamma": 5.0, "beta": 1e9}
FREE = {"name": "free"}


def model_of(selector, treatment="preserve", execution="auto", **options):
    return pruned(selector, treatment, FREE, execution, **options)


def loop(vit, x, gamma=HALTING["gamma"], beta=HALTING["beta"], eps=0.01):
    """Return tokens after each block [(B,T,C)], layers + remainder (B,T), weights of each block [(B,T)], by the definition."""
    tokens = vit._pos_embed(vit.patch_embed(x))
    B, T, _ = tokens.shape
    layers, weights, depth = [], [], torch.zeros(B, T)
    total, going = torch.zeros(B, T), torch.ones(B, T, dtype=torch.bool)
    for number in range(DEPTH):
        tokens = block_of(vit, number, tokens, going)
        layers.append(tokens)
        weights.append(torch.zeros(B, T))
        for b in range(B):
            for t in going[b].nonzero().flatten().tolist():
                h = 1.0 if number == DEPTH - 1 else float(torch.sigmoid(gamma * tokens[b, t, 0] - beta))
                weights[-1][b, t] = h
                if total[b, t] + h > 1 - eps:
                    weights[-1][b, t] = 1 - total[b, t]
                    depth[b, t] = number + 1 + 1 - total[b, t]
                    going[b, t] = False
                total[b, t] += h
        assert number == DEPTH - 1 or going[:, 1:].any(1).all()  # the guard that keeps one patch has nothing to do here
    return layers, depth, weights


def block_of(vit, number, tokens, going):
    """Return tokens after a block that only those that go on, and the class token, enter."""
    after, block = tokens.clone(), vit.blocks[number]
    for b in range(len(tokens)):
        at = torch.cat([torch.tensor([0]), going[b, 1:].nonzero().flatten() + 1])
        some = tokens[b : b + 1, at]
        attention, v, _ = attention_of(vit, number, some)
        some = some + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        after[b, at] = (some + block.mlp(block.norm2(some)))[0]
    return after


def test_outputs_depths_and_counts_are_those_of_the_loop():
    vit, x = tiny_vit(), images(3)
    with torch.no_grad():
        layers, depth, weights = loop(vit, x)
    expected = sum(w.unsqueeze(-1) * tokens for w, tokens in zip(weights, layers, strict=True))
    for execution in ("masked", "packed"):
        model = model_of(HALTING, execution=execution, vit=vit)
        with torch.no_grad(), record(model) as seen:
            outputs = model.encode(x)
            logits = model(x)
            torch.testing.assert_close(outputs.map, vit.norm(expected[:, 1:]), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(logits, vit.head(vit.norm(expected)[:, 0]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs.state.traits[TRAIT_DEPTH], depth)
        used = torch.stack([image.blocks.sum(0) for image in seen.images[:3]])
        assert torch.equal(used, depth[:, 1:].ceil().long() - 1)
    assert len(set(used.flatten().tolist())) > 3 and (depth[:, 0] < DEPTH).any()  # tokens of all depths, and a class token that halts


@pytest.mark.parametrize("treatment", ["preserve", "remove", "last_layer_fusion"])
def test_without_halting_it_is_the_dense_model(treatment):
    vit, x = tiny_vit(), images(2)
    model = model_of(NEVER, treatment, vit=vit)
    with torch.no_grad():
        outputs, dense = model.encode(x), tokenprune.prune(vit).encode(x)
        assert torch.equal(model(x), vit(x)) and torch.equal(outputs.map, dense.map) and outputs.present.all()
    assert (outputs.state.traits[TRAIT_DEPTH] == DEPTH + 1).all()


@pytest.mark.parametrize("schedule", [FREE, {"name": "free", "start": 2}, {"name": "stages", "blocks": [1, 3, 4]}], ids=str)
@pytest.mark.parametrize("treatment", ["preserve", "last_layer_fusion"])
def test_weights_add_up_to_one_wherever_decisions_are(schedule, treatment):
    """With blocks that add nothing a token's output is its value times the sum of its weights."""
    vit, x = tiny_vit(), images(3)
    with torch.no_grad():
        for block in vit.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    model = pruned(HALTING, treatment, schedule, vit=vit)
    with torch.no_grad():
        prefix, tokens, _ = model.family.embed(x)
        outputs = model.encode(x)
        torch.testing.assert_close(outputs.map, vit.norm(tokens))
        torch.testing.assert_close(outputs.prefix, vit.norm(prefix))
    depth = outputs.state.traits[TRAIT_DEPTH]
    assert (depth >= 2).all() and (depth < DEPTH + 1).all() and len(depth.unique()) > 3  # a first layer that takes all has remainder 1


def test_a_halted_token_reaches_nobody():
    """Whatever is written into halted positions between two blocks changes no other token."""
    model, x = model_of(HALTING, execution="masked"), images(3)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 3)
        dead = ~state.live
        noisy = state.replace(tokens=state.tokens + 100 * dead.unsqueeze(-1))
        (a, _), (b, _) = (model.run(s, 3, DEPTH) for s in (state, noisy))
        assert dead.any() and torch.equal(a.tokens[~dead], b.tokens[~dead]) and torch.equal(a.prefix, b.prefix)
        a, b = (model.finish(s, ()) for s in (a, b))
    assert torch.equal(a.map, b.map)  # what a halted token shows is its mean, which is finished


def test_halted_tokens_never_come_back_and_the_map_of_remove_has_zeros_there():
    x = images(3)
    kept, removed = (model_of(HALTING, treatment) for treatment in ("preserve", "remove"))
    with torch.no_grad(), record(kept) as seen:
        shown, cut = kept.encode(x), removed.encode(x)
    blocks = torch.stack([image.blocks for image in seen.images])
    assert not (blocks[:, 1:] & ~blocks[:, :-1]).any() and (blocks[:, -1].sum(1) < 64).all()
    assert torch.equal(cut.prefix, shown.prefix) and torch.equal(cut.present, blocks[:, -1])
    torch.testing.assert_close(cut.map, shown.map * cut.present.unsqueeze(-1))


def test_one_patch_stays_where_all_would_halt():
    model = model_of({"name": "a_vit", "gamma": 0.0, "beta": -9.0}, execution="packed")  # h = 0.9999 everywhere
    with torch.no_grad():
        outputs = model.encode(images(2))
    assert [int(u.attended.min()) for u in outputs.usage] == [65] + [2] * (DEPTH - 1)
    assert torch.equal(outputs.state.traits[TRAIT_DEPTH], torch.full((2, 65), 2.0))


def test_the_loss_is_ponder_and_divergence_of_the_layers_by_hand():
    vit, x = tiny_vit(), images(3)
    model = model_of(HALTING, vit=vit, losses={"ponder": {"weight": 0.3, "prior_weight": 0.7, "centre": 4.0, "sigma": 2.0}}).train()
    loss = model.losses(model.encode(x))["loss_ponder"]
    with torch.no_grad():
        layers, depth, weights = loop(vit, x)
        scores = [torch.sigmoid(5.0 * tokens[..., 0] - 1.0) * (w > 0) for tokens, w in zip(layers, weights, strict=True)]
        halting = torch.stack([s.mean() for s in scores])
        shares = (halting / halting.sum()).clamp(0.01, 0.99)
        prior = torch.tensor([2.718281828 ** (-((layer - 4) ** 2) / 8) for layer in range(1, DEPTH + 1)])
        prior = prior / prior.sum()
        expected = 0.3 * depth.mean() + 0.7 * (prior * (prior / shares).log()).sum()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert model_of(NEVER).train().losses(model_of(NEVER).train().encode(x)) == {}  # a model without the loss


def test_the_ponder_loss_alone_makes_tokens_halt_earlier():
    model, x = model_of(HALTING, losses={"ponder": {"weight": 1.0, "prior_weight": 0.0}}).train(), images(3)
    optimizer, depths = torch.optim.SGD(model.parameters(), lr=0.02), []
    for _ in range(5):
        outputs = model.encode(x)
        depths.append(float(outputs.state.traits[TRAIT_DEPTH].detach().mean()))
        optimizer.zero_grad()
        model.losses(outputs)["loss_ponder"].backward()
        optimizer.step()
    assert depths == sorted(depths, reverse=True) and depths[-1] < depths[0] - 0.05


def test_the_default_prior_peaks_at_two_thirds_of_the_depth():
    flat = [(layer, torch.ones(2)) for layer in range(1, 13)]
    assert torch.equal(PonderLoss().divergence(flat), PonderLoss(centre=8.0).divergence(flat))
    peaked = [(layer, torch.full((2,), 10.0 if layer == 8 else 1.0)) for layer in range(1, 13)]
    assert PonderLoss().divergence(peaked) < PonderLoss().divergence(flat)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: model_of({"name": "a_vit", "eps": 0.0}), "eps is 0.0; allowed: 0 < eps < 1"),
        (lambda: PonderLoss(weight=-1), "weight and prior_weight are 0 and more"),
        (lambda: PonderLoss(sigma=0), "sigma is 0, allowed are numbers above 0"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(InvalidConfig, match=message):
        build()


def loop_released(vit, x, gamma, beta, eps=0.01):
    """Return all outputs (B,T,C) where halted tokens, the class token too, are hidden, image by image; and how often it was left alone."""
    tokens, found, alone = vit._pos_embed(vit.patch_embed(x)), [], 0
    for one in tokens.split(1):
        total, going, output = torch.zeros(65), torch.ones(65, dtype=torch.bool), torch.zeros_like(one[0])
        for number, block in enumerate(vit.blocks):
            at = going.nonzero().flatten()
            if not len(at):
                break
            alone += len(at) == 1 and bool(going[0])
            some = one[:, at]
            attention, v, _ = attention_of(vit, number, some)
            some = some + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
            one = one.clone()
            one[:, at] = some + block.mlp(block.norm2(some))
            h = torch.sigmoid(gamma * one[0, :, 0] - beta) if number < DEPTH - 1 else torch.ones(65)
            closing = total + h > 1 - eps
            output = output + (torch.where(closing, 1 - total, h) * going).unsqueeze(-1) * one[0]
            total, going = total + h, going & ~closing
        found.append(output)
    return torch.stack(found), alone


@pytest.mark.parametrize(("beta", "shift"), [(0.0, 0.0), (-4.0, -2.0)], ids=["class token first", "patches first"])
def test_the_released_variant_hides_halted_class_tokens_and_lets_all_patches_halt(beta, shift):
    vit, x = tiny_vit(), images(6)
    with torch.no_grad():
        vit.cls_token[..., 0] += shift
        expected, alone = loop_released(vit, x, 5.0, beta)
        halting = {"name": "a_vit", "gamma": 5.0, "beta": beta}
        fixed = model_of(halting, vit=vit)
        for execution in ("masked", "packed"):
            model = model_of({**halting, "variant": "released"}, execution=execution, vit=vit)
            outputs, logits = model.encode(x), model(x)
            torch.testing.assert_close(logits, vit.head(vit.norm(expected[:, 0])), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(outputs.map, vit.norm(expected[:, 1:]), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(torch.cat([model(image[None]) for image in x]), logits, atol=1e-5, rtol=1e-5)
    assert (alone > 0) == (shift < 0)
    if alone:  # a patch that stays for the engine's sake would be seen by the class token
        assert (fixed(x) - logits).abs().max() > 1e-3
    else:  # the class token's output is finished; later patches no longer see it
        assert (fixed.encode(x).map - outputs.map).abs().max() > 1e-2
