"""The invariants of the design.

Every legal pairing of the registry agrees with itself in every execution that it supports. Further laws are asked of every selector, and of
every treatment with each kind of selector; `-m slow` asks them of the other pairings, too.
"""

from dataclasses import replace

import pytest
import torch

from tests.helpers.pairings import SCHEDULES, encode_checked, images, label, pairings, pruned, sampled, timed, tiny_vit, treatments, verdict
from tokenprune.errors import IncompatiblePairing
from tokenprune.registry import get

LEGAL, REFUSED = pairings(), pairings(legal=False)


def merges(treatment: str) -> bool:
    """Tell whether a treatment merges dropped tokens into others."""
    return get("treatment", treatment).facts()["fold"] == "merge"


def executions(selector: dict) -> list[str]:
    """Return what a selector supports beside `masked`: uneven counts have no gathered form."""
    return ["packed"] if get("selector", selector["name"]).budget == "dynamic" else ["gathered", "packed"]


def run(model, x):
    """Return the outputs and the logits, as `model(x)` computes them, of one pass."""
    with torch.no_grad():
        return encode_checked(model, x), model(x)


@pytest.mark.parametrize(("selector", "treatment"), timed(LEGAL), ids=label)
def test_executions_agree(selector, treatment):
    agree(selector, treatment, "stages")


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "stages"])
@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_executions_agree_under_other_schedules(selector, treatment, schedule):
    agree(selector, treatment, schedule)


def agree(selector, treatment, schedule):
    """Hold the other executions of a pairing against `masked`."""
    vit = tiny_vit()
    reference = pruned(selector, treatment, schedule, "masked", vit)
    others = [pruned(selector, treatment, schedule, execution, vit) for execution in executions(selector)]
    for count in (1, 3) if schedule == "stages" else (3,):
        x = images(count)
        masked, logits = run(reference, x)
        for model in others:
            other, other_logits = run(model, x)
            assert torch.equal(other.present, masked.present)
            torch.testing.assert_close(other.map, masked.map, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(other.prefix, masked.prefix, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(other_logits, logits, atol=1e-5, rtol=1e-5)
            for a, b in zip(masked.usage, other.usage, strict=True):
                assert torch.equal(a.attended, b.attended) and torch.equal(a.rows, b.rows) and torch.equal(a.fed, b.fed)


def follow(model, decided):
    """Let selectors score as ever but keep what `decided` {block: (B,N)} says; blocks it does not have are noted in it.

    In half precision rounding, which differs between executions, may swap two tokens of nearly equal score.
    """
    for number, selector in model.selectors.items():

        def score(seen, budget, number=number, original=selector.score):
            decision, index, fused = original(seen, budget), seen.state.index, (seen.state.index < 0) & seen.live
            if number not in decided:
                here = torch.zeros(len(index), seen.state.positions + 1, dtype=torch.bool)
                decided[number] = here.scatter(1, index.where(index >= 0, seen.state.positions), decision.keep)
            keep = decided[number].gather(1, index.clamp(min=0)) & seen.live & (index >= 0) | fused
            return replace(decision, keep=keep, slots=None, gone=None, order=None)

        selector.score = score
    return model


@pytest.mark.parametrize(("selector", "treatment"), sampled([p for p in LEGAL if not merges(p[1])]), ids=label)
def test_half_precision_executions_agree(selector, treatment):
    """Merging is left out: who is most similar to whom is a decision too, and rounding makes it."""
    x, decided, vit = images(3).bfloat16(), {}, tiny_vit()
    masked, logits = run(follow(pruned(selector, treatment, execution="masked", vit=vit).bfloat16(), decided), x)
    for execution in executions(selector)[treatment == "fuse" :] or ["packed"]:  # fused tokens stay here, so counts of their own
        other, other_logits = run(follow(pruned(selector, treatment, execution=execution, vit=vit).bfloat16(), decided), x)
        assert torch.equal(other.present, masked.present)
        for a, b in ((other.map, masked.map), (other.prefix, masked.prefix), (other_logits, logits)):
            torch.testing.assert_close(a.float(), b.float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_image_does_not_depend_on_its_batch_mates(selector, treatment):
    x, model = images(4), pruned(selector, treatment)
    together, logits = run(model, x)
    for i in range(len(x)):
        alone, own = run(model, x[i : i + 1])
        assert torch.equal(alone.present[0], together.present[i])
        torch.testing.assert_close(alone.map[0], together.map[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own[0], logits[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_at_least_one_token_is_kept_and_counts_follow_the_budget(selector, treatment):
    x = images(3)
    model = pruned(selector, treatment)
    outputs, _ = run(model, x)
    budgets = model.budgets(64)
    for number, used in enumerate(outputs.usage):
        assert (used.fed >= model.prefix_tokens + (not any(s.may_keep_none for s in model.selectors.values()))).all()
        if number in budgets and not model.selectors[str(number)].counts_vary:
            extra = model.treatment.extra
            assert (used.fed == budgets[number].keep + extra + model.prefix_tokens).all()


@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_keep_rate_one_is_timm(selector, treatment):
    """A learned fusion has weights of its own, so that timm's is what enters it, not what leaves it."""
    x, vit = images(2), tiny_vit()
    model = pruned(selector, treatment, {"name": "stages", "keep_rate": 1.0, "blocks": [1, 2, 4]}, vit=vit)
    with torch.no_grad():
        if model.treatment.learns:
            state, _ = model.run(model.start(x), 0, model.depth)
            dense = vit.forward_features(x)
            assert torch.equal(vit.norm(state.sequence()), dense)
            assert (model.encode(x).map - dense[:, 1:]).abs().max() > 0.1
        else:
            assert torch.equal(model(x), vit(x))


@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_every_position_returns_to_its_own_cell(selector, treatment):
    """With blocks that add nothing, a remembered position must show exactly what was embedded there; a merged one its owner's mean."""
    vit = tiny_vit()
    with torch.no_grad():
        for block in vit.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    model, x = pruned(selector, treatment, vit=vit), images(3)
    model.fusion = None  # a learned fusion shows what it makes of the values; here is what it is given
    outputs, _ = run(model, x)
    with torch.no_grad():
        expected = model.family.norm(model.family.embed(x)[1])
    assert (outputs.map[~outputs.present] == 0).all()
    if merges(treatment):
        assert outputs.state.owner.shape == (3, 64)
        own = (outputs.state.owner == torch.arange(64)) & outputs.present
        alone = own & (torch.zeros(3, 64).scatter_add(1, outputs.state.owner, torch.ones(3, 64)) == 1)
        torch.testing.assert_close(outputs.map[alone], expected[alone])
        mass, held = outputs.state.mass.where(outputs.state.live, 0).sum(1), outputs.present.float().sum(1)
        forgets = treatment == "mlerp" or get("selector", selector["name"]).vanishing
        assert forgets or torch.equal(held, torch.full_like(held, 64))
        assert torch.equal(mass, held) or (selector["name"] == "diffrate" and (mass < held).all())  # whose masses shrink on their way
    else:
        torch.testing.assert_close(outputs.map[outputs.present], expected[outputs.present])


@pytest.mark.parametrize(("selector", "treatment"), sampled(LEGAL), ids=label)
def test_training_reaches_the_encoder_and_every_gate(selector, treatment):
    model = pruned(selector, treatment, losses={"ratio": {"weight": 1.0}}).train()
    torch.manual_seed(5)
    outputs = encode_checked(model, images(3))
    losses = model.losses(outputs)
    (outputs.map.square().mean() + model.logits(outputs).square().mean()).backward(retain_graph=bool(losses))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    gated = [s for s in model.selectors.values() if s.gated]
    for gate in gated:  # the task alone reaches each gate, without the ratio loss
        assert max(p.grad.abs().sum() for p in gate.parameters() if p.grad is not None) > 0
    assert bool(losses) == bool(gated)
    if selector["name"] == "cropr" and treatment != "fuse":  # a fused token is weighted by score, the only way a loss gets there
        assert all(p.grad is None for p in model.selectors.parameters())


@pytest.mark.parametrize(("selector", "treatment"), [p for p in LEGAL if p[0]["name"] == "cropr"], ids=label)
def test_croprs_routers_learn_from_their_auxiliary_heads_alone(selector, treatment):
    """Where the test above finds no gradient: all of it is taught, and the encoder is not."""
    model = pruned(selector, treatment, losses={"auxiliary": {}}).train()
    outputs = model.encode(images(3))
    model.losses(outputs, targets=torch.arange(3))["loss_auxiliary"].backward()
    assert all(p.grad.abs().sum() > 0 and torch.isfinite(p.grad).all() for p in model.selectors.parameters())
    assert all(p.grad is None for p in model.backbone.parameters()) and model.steady


@pytest.mark.parametrize(("selector", "treatment"), REFUSED, ids=label)
def test_illegal_pairings_are_refused_by_name(selector, treatment):
    reason = verdict(selector, treatment)
    assert selector["name"] in reason and treatment in reason
    with pytest.raises(IncompatiblePairing):
        pruned(selector, treatment)


def test_the_matrix_is_what_the_design_says():
    refused = {(s["name"], t) for s, t in REFUSED}
    merging = ("algm", "atc", "diffrate", "dpc_knn", "mctf", "pitome", "ppt", "tofu", "tome")
    back = {(name, "reactivate") for name in ("a_vit", "ats", "evit", "topk", *merging)}
    folds = {(name, "fuse") for name in merging}
    places = {(name, t) for name in ("patch_merger", "sinkhorn", "sit") for t in treatments() if t != "remove"}
    uneven = ("a_vit", "adavit", "ats", "dynamicvit", "ia_red2", "spvit", "svit", "patch_merger", "sinkhorn", "sit")
    learned = {(name, t) for name in (*uneven, *merging) for t in ("cross_attention", "cross_attention_concat", "mhsa_concat")}
    assert {t for t in treatments() if get("treatment", t).learns} == {t for _, t in learned}
    assert refused == back | folds | places | learned
    assert len(LEGAL) > 50
