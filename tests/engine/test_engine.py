"""The engine against timm itself, and what it refuses."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import tokenprune
from tests.helpers.fakes import own_registry  # noqa: F401
from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Decider, Site
from tokenprune.engine.state import TokenState
from tokenprune.errors import IncompatiblePairing, InvalidConfig, InvalidSchedule, TokenPruneError, UnknownPlugin, UnsupportedBackbone
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.methods.schedules.stages import Stages
from tokenprune.methods.selectors.baselines import RandomSelector
from tokenprune.registry import build

VARIANTS = {
    "plain": {},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "mean with prefix": {"global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "layer scale": {"init_values": 0.1},
    "qk norm": {"qk_norm": True},
    "pre norm": {"pre_norm": True},
    "no final norm": {"global_pool": "avg", "fc_norm": True},
    "positions without class": {"no_embed_class": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_selector_is_timm_bit_for_bit(variant):
    vit, x = tiny_vit(**VARIANTS[variant]), images(2)
    with torch.no_grad():
        assert torch.equal(tokenprune.prune(vit)(x), vit(x))
        outputs = tokenprune.prune(vit).encode(x)
        assert torch.equal(torch.cat([outputs.prefix, outputs.map], 1), vit.forward_features(x))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("selector", ["random", "svit", "tome"])
def test_variants_agree_between_executions(variant, selector):
    treatment = "merge" if selector == "tome" else "remove"
    vit, x = tiny_vit(**VARIANTS[variant]), images(3)
    logits = []
    for execution in ("masked", "packed"):
        with torch.no_grad():
            logits.append(pruned(selector, treatment, execution=execution, vit=vit)(x))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_unfused_attention_is_the_same():
    vit, x = tiny_vit(), images(2)
    with torch.no_grad():
        fused = pruned("evit", "preserve", vit=vit).encode(x).map
        for block in vit.blocks:
            block.attn.fused_attn = False
        torch.testing.assert_close(pruned("evit", "preserve", vit=vit).encode(x).map, fused, atol=1e-5, rtol=1e-5)
        assert torch.equal(tokenprune.prune(vit)(x), vit(x))


def test_any_image_size_and_resuming_between_blocks():
    vit, x = tiny_vit(), images(2, side=48)
    model = pruned("evit", "preserve", vit=vit)
    with torch.no_grad():
        whole = model.encode(x)
        state, first = model.run(model.start(x), 0, 2)
        state, second = model.run(state.with_dense(state.dense()), 2, 6)
        again = model.finish(state, first + second)
    assert whole.grid == (12, 12) and torch.equal(again.map, whole.map)


def test_a_schedule_for_larger_images_than_the_models_own_grid():
    """R tokens a block that leave nothing of 64 positions fit the 576 of a larger image."""
    plan = {"name": "per_block", "remove": 40, "start": 1}
    with pytest.raises(InvalidSchedule, match="would stay"):
        pruned("random", "remove", plan)
    with torch.no_grad():
        outputs = pruned("random", "remove", plan, positions=576).encode(images(1, side=96))
    assert int(outputs.present.sum()) == 576 - 41 - 4 * 40


def test_an_injected_map_reaches_live_and_dropped_positions():
    model, x = pruned("random", "preserve"), images(1)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 4)
        changed = state.with_dense(state.dense() + 1)
    torch.testing.assert_close(changed.dense(), state.dense() + 1)
    torch.testing.assert_close(changed.tokens, state.tokens + 1)


def test_preserved_tokens_rest_and_reactivated_ones_move():
    x = images(1)
    model = pruned("random", "preserve")
    with torch.no_grad():
        before, _ = model.run(model.start(x), 0, 2)
        after, _ = model.run(before, 2, 4)
        dead = ~before.present()
        assert dead.any() and torch.equal(before.dense()[dead], after.dense()[dead])
        back = pruned("random", "reactivate", {"name": "every_block", "start": 1, "span": 2})
        first, _ = back.run(back.start(x), 0, 2)
        then, _ = back.run(first, 2, 3)
        returned = ~first.present() & then.present()
        assert returned.any() and not torch.equal(first.dense()[returned], then.dense()[returned])


def test_checkpoint_keys_stay_timms():
    vit = tiny_vit()
    keys = list(vit.state_dict())
    model = tokenprune.prune(vit, "svit")
    assert list(model.backbone.state_dict()) == keys
    assert {k.split(".")[0] for k in model.state_dict()} == {"backbone", "selectors"}
    model.backbone.load_state_dict(tiny_vit().state_dict())


def test_training_mode_follows_and_a_copy_is_independent():
    vit = tiny_vit()
    assert not tokenprune.prune(vit).training and tokenprune.prune(tiny_vit().train()).training
    model = pruned("dynamicvit", "remove")
    other, x = copy.deepcopy(model), images(1)
    with torch.no_grad():
        other.backbone.blocks[0].mlp.fc2.weight.zero_()
        assert not torch.equal(other(x), model(x))


def test_last_layer_fusion_switches_drop_path_off_in_the_last_block_only():
    def spread(treatment):
        model = pruned("random", treatment, "per_block", vit=tiny_vit(drop_path_rate=0.5)).train()
        last, x = model.family.blocks[-1], torch.randn(8, 65, 24)
        torch.manual_seed(0)
        return torch.stack([last.feed(x) for _ in range(4)]).std(0).max()

    assert spread("last_layer_fusion") == 0 and spread("preserve") > 0


@pytest.mark.parametrize("cls", ["random", "mean"])
def test_a_class_token_for_models_without(cls):
    vit, x = tiny_vit(class_token=False, global_pool="avg"), images(2)
    with pytest.raises(IncompatiblePairing, match="cls=random"):
        pruned("evit", "preserve", vit=vit)
    model = pruned("evit", "preserve", vit=vit, cls=cls)
    with torch.no_grad():
        outputs = model.encode(x)
    assert outputs.prefix.shape == (2, 1, 24) and outputs.map.shape == (2, 64, 24)
    assert ("class_token.token" in dict(model.named_parameters())) == (cls == "random")
    assert "cls_token" not in dict(model.backbone.named_parameters())


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_the_mean_of_no_patch_token_is_zero(execution):
    """AdaViT as released may keep none: the class token goes on alone, and a head that reads the mean of the others reads zeros."""
    vit = tiny_vit(global_pool="avg")
    model = pruned({"name": "adavit", "variant": "released"}, "remove", execution=execution, vit=vit)
    with torch.no_grad():
        [selector.patches.bias.fill_(-100.0) for selector in model.selectors.values()]
        outputs = model.encode(images(2))
        assert not outputs.present.any() and torch.equal(model.logits(outputs), vit.forward_head(torch.zeros(2, 65, 24)))


def test_random_class_token_replaces_the_models_own():
    x = images(2)
    with torch.no_grad():
        own, new = pruned("evit", "preserve").encode(x), pruned("evit", "preserve", cls="random").encode(x)
    assert new.prefix.shape == own.prefix.shape and not torch.equal(new.map, own.map)


def test_a_model_without_class_token_needs_none_for_gates_and_mean_queries():
    vit = tiny_vit(class_token=False, global_pool="avg")
    assert pruned({"name": "topk", "score": "mean_query"}, "remove", vit=vit).encode(images(1)).prefix.shape[1] == 0
    assert pruned({"name": "topk", "score": "cls"}, "remove", vit=vit, cls="mean").encode(images(1)).prefix.shape[1] == 1
    assert pruned("svit", "reactivate", vit=vit, cls="random").prefix_tokens == 0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"selector": "evti"}, UnknownPlugin, "Did you mean 'evit'"),
        ({"selector": "evit", "treatment": "perserve"}, UnknownPlugin, "Did you mean 'preserve'"),
        ({"selector": "evit", "schedule": {"name": "stagess"}}, UnknownPlugin, "Did you mean 'stages'"),
        ({"selector": {"name": "svit", "eval_mod": "topk"}}, InvalidConfig, "Did you mean 'eval_mode'"),
        ({"selector": {"name": "svit", "eval_mode": "best"}}, InvalidConfig, "threshold, sample, gumbel, topk"),
        ({"selector": {"name": "topk", "score": "max"}}, InvalidConfig, "cls, mean_query, column_mean"),
        ({"selector": {"name": "cropr", "queries": 0}}, InvalidConfig, ">= 1"),
        ({"selector": {"name": "evo_vit", "tradeoff": 0.0}}, InvalidConfig, "0 < tradeoff <= 1"),
        ({"selector": "evit", "schedule": {"name": "stages", "blocks": [3, 6, 9]}}, InvalidSchedule, "6 blocks, 0 to 5"),
        ({"selector": "evit", "treatment": "reactivate"}, IncompatiblePairing, "SViT section 4.1"),
        ({"selector": "evit", "execution": "fast"}, IncompatiblePairing, "auto, masked, gathered, packed"),
        ({"selector": "ats", "execution": "gathered"}, IncompatiblePairing, "use packed or auto"),
        ({"selector": "evit", "cls": "none"}, IncompatiblePairing, "learned, random, mean"),
        ({"selector": "svit", "losses": {"ratio": {"form": "token"}}}, InvalidConfig, "batch and image"),
        ({"selector": "svit", "losses": {"ratoi": {}}}, UnknownPlugin, "Did you mean 'ratio'"),
        ({"selector": "evit", "treatment": {"name": "remove", "candidates": "all"}}, InvalidConfig, "remember"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(arguments, error, text):
    settings = {"schedule": {"name": "stages", "blocks": [1, 2, 4]}, **arguments}
    with pytest.raises(error) as caught:
        tokenprune.prune(tiny_vit(), **settings)
    assert text in str(caught.value)


class _OtherBlock(timm.models.vision_transformer.Block):
    """A block this package does not know."""


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Linear(2, 2), "not a timm VisionTransformer"),
        (tiny_vit(patch_drop_rate=0.5), "patch_drop_rate"),
        (tiny_vit(block_fn=_OtherBlock), "_OtherBlock"),
    ],
    ids=["linear", "patch drop", "block"],
)
def test_unknown_models_are_refused_by_name(model, text):
    with pytest.raises(UnsupportedBackbone, match=text):
        tokenprune.prune(model, "evit")


def test_uneven_counts_under_unknown_pooling_are_refused():
    model = pruned("svit", "remove", {"name": "explicit", "keep": {1: 0.7}}, vit=tiny_vit(class_token=False, global_pool="max"))
    with pytest.raises(UnsupportedBackbone, match="max"):
        model(images(3))


def test_half_precision_executions_agree():
    x, maps = images(3).bfloat16(), []
    for execution in ("masked", "packed"):
        with torch.no_grad():
            maps.append(pruned("svit", "preserve", execution=execution).bfloat16().encode(x).map.float())
    torch.testing.assert_close(*maps, atol=2e-2, rtol=2e-2)


class Later(Stages):
    """Drops nothing in the first half of training."""

    def at(self, progress):
        return replace(self, keep_rate=1.0) if progress < 0.5 else self


def test_the_schedule_of_the_moment_decides_and_selectors_are_there_for_all_of_them():
    plan, x = Later(keep_rate=0.5, blocks=(1, 2)), images(2)
    model = PrunedViT(tiny_vit(), "variance", build("treatment", "remove"), plan, "learned", "auto", {})
    assert list(model.selectors) == ["1", "2"]
    model.progress = 0.2
    with torch.no_grad():
        assert model.budgets(64) == {} and torch.equal(model(x), model.backbone(x))
    model.progress = 0.7
    assert [b.keep for b in model.budgets(64).values()] == [32, 16]
    assert model.budgets(64) is model.budgets(64)  # resolved once


@pytest.mark.parametrize(
    ("schedule", "steady"),
    [
        ({"name": "constant", "start": 1}, True),
        ({"name": "constant", "start": 1, "span": 2, "stage_wise_from": 0.5}, False),
        ({"name": "stages", "blocks": [1, 3], "shrink_start": 0.1, "shrink_end": 0.5}, False),
    ],
)
def test_whether_the_same_gates_learn_all_the_time_follows_from_the_schedule(schedule, steady):
    assert pruned("svit", "reactivate", schedule).steady is steady


class Threes(MethodHooks):
    """Watches the blocks and makes all tokens 3 at the end."""

    def __init__(self):
        self.blocks = []

    def observe(self, seen):
        self.blocks.append((seen.block, seen.precedes, seen.projection.q.shape[2] - 1))
        return {"block": torch.full_like(seen.tokens[..., 0], float(seen.block))}

    def conclude(self, state):
        return state.replace(tokens=state.tokens * 0 + 3.0)


def test_a_method_sees_every_block_and_has_the_last_word_on_the_tokens(own_registry):  # noqa: F811
    given = []

    @tokenprune.register("selector", "threes")
    class WithHooks(RandomSelector):
        @classmethod
        def hooks(cls, selectors):
            given.extend(selectors)
            return Threes()

    model = pruned("threes", "remove")
    assert given == list(model.selectors.values()) and len(given) == 3
    outputs = model.encode(images(2))
    assert (outputs.state.tokens == 3.0).all()
    assert model.hooks.blocks == [(0, True, 64), (1, True, 44), (2, False, 31), (3, True, 31), (4, False, 21), (5, False, 21)]
    last = outputs.state.traits["block"][:, 1:]
    assert [int((last == block).sum()) for block in range(6)] == [2 * 20, 2 * 13, 0, 2 * 10, 0, 2 * 21]  # the block that each position left


def test_a_model_without_selectors_or_with_a_method_that_needs_none_has_hooks_that_do_nothing():
    for model in (
        tokenprune.prune(tiny_vit()),
        pruned("random", "remove"),
        pruned("evo_vit", "reactivate", {"name": "explicit", "keep": {}}),
    ):
        state = model.start(images(1))
        assert type(model.hooks) is MethodHooks and not model.hooks.observes(True) and model.hooks.conclude(state) is state


@pytest.mark.parametrize("site", list(Site))
def test_a_selector_of_another_package_may_name_its_site(site):
    sub = type("Sub", (RandomSelector,), {"site": site.value})
    assert sub.site is site and sub.facts()["site"] == site.value == str(site) and type(sub.facts()["site"]) is str


@pytest.mark.parametrize("name", ["observe", "conclude"])
def test_a_selector_with_methods_of_hooks_is_refused_where_the_class_is_made(name):
    with pytest.raises(InvalidConfig, match=f"class Sub defines {name}, which the engine does not call.*MethodHooks.*hooks\\(selectors\\)"):
        type("Sub", (RandomSelector,), {name: lambda self, seen: {}})


@pytest.mark.parametrize(
    ("selector", "treatment"),
    [("random", "remove"), ("evit", "fuse"), ("cropr", "preserve"), ("tome", "merge"), ("evo_vit", "preserve"), ("ats", "remove")],
)
@pytest.mark.parametrize("execution", ["auto", "masked"])
def test_a_decision_that_drops_nothing_at_the_models_own_size_drops_at_others(selector, treatment, execution):
    model = pruned(selector, treatment, {"name": "explicit", "keep": {3: 64}}, execution)
    with torch.no_grad():
        large = model.encode(images(2, 48))
    assert list(model.selectors) == ["3"] == [str(block) for block in model.budgets(144)]
    assert all(n < 145 for n in large.usage[4].fed.tolist())
    if selector != "ats":  # for which a plan is an upper bound
        assert encoder_macs(model, large).total == pytest.approx(planned_macs(model, 144).total, rel=1e-6)


def test_a_decision_without_a_selector_is_refused():
    model = pruned("random", "remove", {"name": "explicit", "keep": {1: 63}})
    model.schedule = build("schedule", {"name": "explicit", "keep": {2: 30}})
    with pytest.raises(IncompatiblePairing, match=r"decides at block 2 of images of 64 positions.*prune\(..., positions=64\)"):
        model(images(1))


def test_an_unknown_site_is_refused_where_the_class_is_made():
    with pytest.raises(InvalidConfig, match="class Sub: site is 'behind'; allowed: before, ahead, rows, inside"):
        type("Sub", (RandomSelector,), {"site": "behind"})
    with pytest.raises(ValueError, match="site is 'before'; allowed in a block: ahead, rows, inside"):
        Decider(Site.BEFORE, lambda state, p, bias: state)


@pytest.mark.system
@pytest.mark.parametrize(("selector", "treatment"), [("evit", "remove"), ("tome", "merge"), ("cropr", "last_layer_fusion")])
def test_a_pass_compiles_as_one_graph(selector, treatment):
    torch.compiler.reset()  # sizes of tests before this one would make those of the images symbols
    model, x = pruned(selector, treatment), images(2)
    with torch.no_grad():
        expected = model(x)  # counts are resolved once, in exact fractions, which are not traced
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)


def test_what_an_observation_cannot_show_is_an_error_with_a_remedy():
    tokens = torch.zeros(1, 4, 3)
    seen = Observation(TokenState.start(tokens[:, :1], tokens, (2, 2)), 2)
    for look in (seen.cls_row, seen.mean_query, seen.column_mean, seen.summed_keys, seen.value_norms):
        with pytest.raises(TokenPruneError, match="block 2: queries, keys and values do not exist before a block; .* rows or inside"):
            look()
    with pytest.raises(TokenPruneError, match="block 2: the state holds no images"):
        seen.pixels()


def test_a_fused_token_needs_a_weight_or_a_score():
    tokens, keep = torch.zeros(1, 4, 3), torch.tensor([[True, True, False, True]])
    with pytest.raises(TokenPruneError, match="neither weight nor score"):
        build("treatment", "fuse").apply(TokenState.start(tokens[:, :1], tokens, (2, 2)), Decision(keep))


def test_a_selector_knows_how_far_training_is():
    model, seen = pruned("variance", "remove"), []
    for selector in model.selectors.values():
        score = selector.score
        selector.score = lambda o, b, score=score: (seen.append(o.progress), score(o, b))[1]
    model.progress = 0.25
    model.encode(images(1))
    assert seen == [0.25] * 3
