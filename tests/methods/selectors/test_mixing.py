"""New tokens instead of old ones: what SiT, Sinkhorn and PatchMerger share."""

import pytest
import torch

import tokenprune
from tests.helpers.pairings import images, label, pruned, selectors, tiny_vit
from tokenprune.engine.decision import Decision
from tokenprune.engine.legality import check_pairing
from tokenprune.engine.observation import Observation
from tokenprune.engine.selector import Selector
from tokenprune.engine.state import TokenState
from tokenprune.errors import IncompatiblePairing, InvalidSchedule
from tokenprune.methods.selectors.shared.mixing import MixingSelector, over_live
from tokenprune.methods.treatments.plain import Remove
from tokenprune.registry import get

MIXERS = [s for s in selectors() if get("selector", s["name"]).mixing]
STAGES = {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7}


def selector_of(spec, count=4, live=9, dim=6):
    """Return a selector alone, whose weights are all random."""
    from tokenprune.engine.context import Context
    from tokenprune.engine.schedule import Budget
    from tokenprune.registry import build

    torch.manual_seed(0)
    made = build("selector", spec, context=Context(dim, 1, 2, Budget(2, count, live, None), 6, 1))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
    return made, made.context.budget


def observed(tokens, live):
    state = TokenState.start(torch.zeros(len(tokens), 1, tokens.shape[-1]), tokens, (1, tokens.shape[1]))
    return state.replace(live=live, complete=bool(live.all()))


def test_there_are_three():
    assert {s["name"] for s in MIXERS} == {"patch_merger", "sinkhorn", "sit"}


def test_new_tokens_are_the_mixtures_and_nothing_else():
    """A decision by hand: twice the first value and the mean of two; masses and gates of what was there are gone."""
    state = observed(torch.randn(1, 4, 3), torch.ones(1, 4, dtype=torch.bool)).replace(mass=torch.ones(1, 4), gate=torch.ones(1, 4))
    mix = torch.tensor([[[2.0, 0, 0, 0], [0, 0.5, 0, 0.5]]])
    values = torch.randn(1, 4, 3)
    for given in (None, values):
        after = Remove().apply(state, Decision(torch.zeros(1, 4, dtype=torch.bool), mix=mix, values=given))
        of = state.tokens if given is None else given
        torch.testing.assert_close(after.tokens[0, 4:], torch.stack([2 * of[0, 0], (of[0, 1] + of[0, 3]) / 2]))
        assert torch.equal(after.tokens[:, :4], state.tokens) and after.live.tolist() == [[False] * 4 + [True] * 2]
        assert after.index.tolist() == [[0, 1, 2, 3, -1, -1]] and after.mass is None and after.gate is None
        assert after.present().sum() == 0 and (after.dense() * after.present().unsqueeze(-1)).abs().sum() == 0
        small = after.compact(after.known.slots, None, remember=False)
        assert torch.equal(small.tokens, after.tokens[:, 4:]) and small.index.tolist() == [[-1, -1]]


@pytest.mark.parametrize("spec", MIXERS, ids=label)
def test_dead_slots_never_leak(spec):
    """Masked execution keeps dead slots in place: whatever they hold, the new tokens are those of live slots alone."""
    selector, budget = selector_of(spec)
    tokens, live = torch.randn(2, 14, 6), torch.zeros(2, 14, dtype=torch.bool)
    live[0, torch.randperm(14)[:9]] = live[1, torch.randperm(14)[:9]] = True
    results = []
    for garbage in (0.0, 1e3):
        state = observed(tokens.where(live.unsqueeze(-1), garbage), live)
        decision = selector.score(Observation(state, 2), budget)
        assert (decision.mix[~live.unsqueeze(1).expand_as(decision.mix)] == 0).all()
        results.append(Remove().apply(state, decision).tokens[:, 14:])
    alone = observed(torch.stack([tokens[b, live[b]] for b in range(2)]), torch.ones(2, 9, dtype=torch.bool))
    results.append(Remove().apply(alone, selector.score(Observation(alone, 2), budget)).tokens[:, 9:])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[0], results[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", MIXERS, ids=label)
def test_gradients_of_masked_training_are_finite_and_those_of_gathered(spec):
    grads = []
    for execution in ("masked", "gathered", "packed"):
        model = pruned(spec, "remove", STAGES, execution).train()
        model.logits(model.encode(images(2))).square().sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(g.isfinite().all() for g in found.values())
        assert all(p.grad.abs().sum() > 0 for s in model.selectors.values() for p in s.parameters() if p.dim() > 1)
        grads.append(found)
    for other in grads[1:]:
        for name, grad in grads[0].items():
            torch.testing.assert_close(other[name], grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("spec", MIXERS, ids=label)
def test_the_order_of_tokens_does_not_matter_and_the_class_token_is_left_alone(spec):
    selector, budget = selector_of(spec)
    tokens, everyone, order = torch.randn(1, 9, 6), torch.ones(1, 9, dtype=torch.bool), torch.randperm(9)
    states = [observed(t, everyone).replace(prefix=torch.full((1, 1, 6), fill)) for t, fill in ((tokens, 3.0), (tokens[:, order], 7.0))]
    fresh = [Remove().apply(s, selector.score(Observation(s, 2), budget)) for s in states]
    torch.testing.assert_close(fresh[0].tokens[:, 9:], fresh[1].tokens[:, 9:])
    assert (fresh[0].prefix == 3).all() and (fresh[1].prefix == 7).all()


@pytest.mark.parametrize("name", ["sit", "sinkhorn", "patch_merger"])
def test_another_count_than_the_weights_have_is_refused_by_what_was_built(name):
    model = pruned(name, "remove")
    text = rf"{name}: the weights at block 1 make 44 tokens of 64, and 100 of 144 are asked for; allowed: .* prune\(\.\.\., positions=N\)"
    with pytest.raises(InvalidSchedule, match=text):
        model.encode(images(1, side=48))
    assert pruned(name, "remove", positions=144).encode(images(1, side=48)).usage[1].fed.item() == 101
    growing = pruned(name, "remove", {**STAGES, "shrink_end": 0.5})
    growing.progress = 0.25
    with pytest.raises(InvalidSchedule, match="counts of the schedule that the model was built for"):
        growing.encode(images(1))


@pytest.mark.parametrize("name", ["sit", "sinkhorn", "patch_merger"])
def test_facts_and_counts(name):
    kind = get("selector", name)
    assert kind.mixing and kind.learns and kind.site == "before" and not (kind.merging or kind.reads_cls or kind.gated)
    with torch.no_grad():
        outputs = pruned(name, "remove").encode(images(2))
    assert [used.fed.tolist() for used in outputs.usage] == [[65] * 2, [45] * 2, [32] * 2, [32] * 2, [22] * 2, [22] * 2]
    assert not outputs.present.any() and not outputs.map.any()


def test_models_that_average_tokens_average_the_new_ones():
    vit = tiny_vit(class_token=False, global_pool="avg")
    for execution in ("masked", "gathered"):
        model, x = pruned("sit", "remove", STAGES, execution, vit=vit), images(2)
        with torch.no_grad():
            outputs = model.encode(x)
            live = torch.stack([outputs.state.tokens[b, outputs.state.live[b]] for b in range(2)])
            assert live.shape[1] == 21
            torch.testing.assert_close(model.logits(outputs), vit.forward_head(vit.norm(live)), atol=1e-5, rtol=1e-5)


def test_new_tokens_of_a_rotary_model_are_not_turned():
    import timm

    eva = timm.create_model("eva02_tiny_patch14_336", img_size=56, patch_size=14, embed_dim=24, depth=3, num_heads=2, num_classes=5)
    for execution in ("gathered", "masked"):
        model = tokenprune.prune(eva.eval(), "sit", schedule={"name": "explicit", "keep": {1: 5}}, execution=execution)
        with torch.no_grad():
            state, _ = model.run(model.start(torch.randn(1, 3, 56, 56)), 0, 2)
        assert (state.index[state.live] == -1).all() and state.tokens.isfinite().all()


@pytest.mark.parametrize("treatment", ["preserve", "reactivate", "last_layer_fusion", "fuse", "merge"])
def test_nothing_is_left_to_remember_or_fold(treatment):
    with pytest.raises(IncompatiblePairing, match="its new tokens are mixtures of all.*use remove"):
        check_pairing("sit", treatment, "stages", depth=12, positions=196)


def test_softmax_over_live_tokens():
    live = torch.tensor([[True, False, True]])
    weights = over_live(torch.tensor([[[1.0, 9.0, 1.0], [0.0, 0.0, -100.0]]]), live)
    torch.testing.assert_close(weights, torch.tensor([[[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]]))


def test_a_mixing_selector_must_say_how():
    selector, budget = selector_of("sit")
    bare = MixingSelector(selector.context)
    with pytest.raises(TypeError, match=r"must define mixtures\(tokens, live\)"):
        bare.score(Observation(observed(torch.randn(1, 9, 6), torch.ones(1, 9, dtype=torch.bool)), 2), budget)
    assert isinstance(bare, Selector)
