"""A keep rate set after building: the same model as one built with it, in every execution; refusals that leave the model alone."""

import pytest
import torch

import tokenprune
from tests.helpers.pairings import images, label, pruned, selectors, tiny_vit, verdict
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import get

LOW, HIGH = 0.5, 0.8
SCHEDULES = {
    "stages": {"name": "stages", "blocks": [1, 2, 4]},
    "current": {"name": "stages", "blocks": [1, 3, 4], "of": "current", "rounding": "ceil"},
    "every_block": {"name": "every_block", "start": 1, "span": 2},
    "constant": {"name": "constant", "start": 2},
    "shrink": {"name": "shrink", "start": 1},
    "counts": {"name": "counts", "prune": [190, 180, 150, 130, 110, 90]},
}
EXECUTIONS = ("masked", "gathered", "packed")


def follows(selector):
    """Tell whether a selector follows a keep rate that is set later, in the mode of the test."""
    kind = get("selector", selector["name"])
    return kind.count_role in ("count", "cap") and not kind.mixing or selector.get("eval_mode") == "topk"


FOLLOWING = [s for s in selectors() if follows(s) and verdict(s, "remove") is None]
REFUSING = [s for s in selectors() if not follows(s) and verdict(s, "remove") is None]


def models(selector, treatment, schedule, execution):
    """One built with the high rate, and one with the low rate."""
    plan = SCHEDULES[schedule]
    return [pruned(selector, treatment, {**plan, "keep_rate": rate}, execution) for rate in (HIGH, LOW)]


def executions(selector):
    dynamic = get("selector", selector["name"]).budget == "dynamic"
    return [e for e in EXECUTIONS if not (dynamic and e == "gathered")]


@pytest.mark.parametrize("selector", FOLLOWING, ids=label)
def test_it_equals_a_model_built_with_the_rate(selector):
    x = images()
    for execution in executions(selector):
        changed, built = models(selector, "remove", "stages", execution)
        with torch.no_grad():
            before = changed(x)
            changed.set_keep_rate(LOW)
            assert torch.equal(changed(x), built(x)) and changed.keep_rate == LOW, execution
            changed.set_keep_rate(HIGH)
            assert torch.equal(changed(x), before)


@pytest.mark.parametrize("treatment", ["preserve", "reactivate", "last_layer_fusion"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_under_every_schedule_with_a_rate_and_every_treatment(treatment, schedule):
    x = images(2)
    for execution in EXECUTIONS:
        changed, built = models("random", treatment, schedule, execution)
        changed.set_keep_rate(LOW)
        assert changed.describe() == built.describe()
        with torch.no_grad():
            assert torch.equal(changed(x), built(x))


def test_keeping_everything_is_the_model_without_pruning_and_the_way_back_is_open():
    x, vit = images(2), tiny_vit()
    model = pruned("topk", "preserve", {**SCHEDULES["stages"], "keep_rate": LOW}, vit=vit)
    with torch.no_grad():
        low = model(x)
        model.set_keep_rate(1.0)
        assert torch.equal(model(x), vit(x))
        model.set_keep_rate(LOW)
        assert torch.equal(model(x), low)


def test_a_lower_rate_decides_where_the_first_did_not():
    """At keep rate 1 no block decides. Selectors without weights are made where they are needed, those with weights are missed."""
    plan = {**SCHEDULES["stages"], "keep_rate": 1.0}
    model = pruned("topk", "remove", plan)
    assert len(model.selectors) == 0
    model.set_keep_rate(LOW)
    x = images(2)
    with torch.no_grad():
        assert torch.equal(model(x), pruned("topk", "remove", {**plan, "keep_rate": LOW})(x))
    learned = pruned("cropr", "remove", plan)
    with pytest.raises(InvalidSchedule, match="block 1 decides, where the model has no trained selector.*lowest keep rate"):
        learned.set_keep_rate(LOW)
    assert learned.keep_rate == 1.0


def test_weights_of_selectors_stay_the_same_objects():
    model = pruned("cropr", "remove", {**SCHEDULES["stages"], "keep_rate": HIGH}).train()
    before = dict(model.named_parameters())
    model.set_keep_rate(LOW)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)
    assert all(selector.training for selector in model.selectors.values())


@pytest.mark.parametrize("selector", REFUSING, ids=label)
def test_what_does_not_follow_a_rate_says_so_and_is_unchanged(selector):
    plan = {**SCHEDULES["stages"], "keep_rate": HIGH}
    model, x = pruned(selector, "remove", plan), images(2)
    with torch.no_grad():
        before = model(x)
        with pytest.raises(InvalidSchedule, match=r"set_keep_rate: .*(selector .*keep rate|weights of the selector)"):
            model.set_keep_rate(LOW)
        assert model.keep_rate == HIGH and torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("model", "rate", "text"),
    [
        (lambda: tokenprune.prune(tiny_vit()), 0.5, "the model is dense.*prune it with"),
        (lambda: pruned("topk", "remove", "per_block"), 0.5, "schedule 'per_block' has no keep rate .*allowed: schedules with one"),
        (lambda: pruned("random", "remove", {"name": "constant", "rate": 0.5}), 0.5, "has rate=0.5, which counts in place"),
        (lambda: pruned("topk", "remove", {**SCHEDULES["stages"], "keep_rate": 0.7}), 1.5, "keep_rate is 1.5; allowed is 0 < keep_rate"),
        (lambda: pruned("topk", "remove", {**SCHEDULES["stages"], "keep_rate": 0.7}), 0.01, "block 1: 0 of 64 tokens would stay"),
    ],
)
def test_rates_that_cannot_be_set(model, rate, text):
    built = model()
    before = built.schedule
    with pytest.raises(InvalidSchedule, match=text):
        built.set_keep_rate(rate)
    assert built.schedule is before


def test_a_deployed_model_with_other_weights_is_refused():
    model = pruned("cropr", "remove", {**SCHEDULES["stages"], "keep_rate": HIGH}).deploy()
    with pytest.raises(InvalidSchedule, match="set the rate before deploy"):
        model.set_keep_rate(LOW)
