"""schedule.target_gmac: what is found is the nearest there is, by looking at every choice; what cannot be met is refused with its range."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import InvalidSchedule
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.run_key import run_key
from tokenprune.runs.target_gmac import asked, meet, plan, samples, solved
from tokenprune.runs.validation import validate
from tokenprune.tasks.encoder import build_pruned

SMOKE = ("scale=smoke", "task=classification")
COUNTED = ["evit", "evit_fused", "dynamicvit", "topk", "evo_vit", "tome", "cropr"]


@functools.cache
def config(*overrides):
    return resolve(compose([*SMOKE, *overrides]))


@given(costs=st.lists(st.integers(0, 40), min_size=2, max_size=30), share=st.floats(0, 1), hopeless=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_the_nearest_of_all_choices_is_found(costs, share, hopeless):
    """`remove` R of N: cost falls as R grows, and the largest R keep too little."""
    costs = sorted(costs)
    total = len(costs) - 1 + hopeless

    def cost(choice):
        if choice["schedule"]["remove"] > len(costs) - 1:
            raise InvalidSchedule("nothing would stay")
        return float(costs[len(costs) - 1 - choice["schedule"]["remove"]])

    target = costs[0] + share * (costs[-1] - costs[0])
    found, spent = meet([{"schedule": {"name": "per_block", "remove": count}} for count in range(total, -1, -1)], target, cost)
    assert spent == cost(found) and abs(spent - target) == min(abs(c - target) for c in costs)


@pytest.mark.parametrize("method", COUNTED)
def test_fixed_counts_spend_what_was_planned_within_a_token_a_decision(method):
    asked_for = config(f"method={method}", "schedule.target_gmac=0.018")
    answer, notes = solved(asked_for, None, None)
    model = build_pruned(answer).eval()
    with torch.no_grad():
        spent = encoder_macs(model, model.encode(torch.randn(1, 3, 64, 64))).total
    schedule = answer["schedule"]
    assert spent == pytest.approx(planned_macs(model, 64).total)
    assert spent == pytest.approx(0.018e9, rel=0.06 if "remove" in schedule else 0.02)  # a step moves a token of 64, or one in each block
    assert f"{schedule.get('remove', schedule.get('keep_rate'))} found, {spent / 1e9:.4g} GMAC planned" in notes[0]


def test_keep_rates_of_the_published_numbers_are_found_again():
    """DeiT-S, three stages of 0.7: 3.0 of 4.6 GMAC in the papers."""
    small = ("scale=demo", "task=classification", "backbone=vit_small", "data.side=224", "method=dynamicvit")
    spent = plan(resolve(compose([*small])))[1].total / 1e9
    assert spent == pytest.approx(3.0, rel=0.01)
    schedule, _ = plan(resolve(compose([*small, f"schedule.target_gmac={spent}"])))
    assert schedule["keep_rate"] == pytest.approx(0.7, abs=0.006)  # 0.7 of 196 is 137.2: 0.6990 to 0.7040 keep as many


def test_gates_are_met_by_their_expected_counts():
    answer, _ = solved(config("method=svit", "schedule.target_gmac=0.018"), None, None)
    assert planned_macs(build_pruned(answer).eval(), 64).total == pytest.approx(0.018e9, rel=0.001)


def test_a_sampler_is_measured_on_training_images():
    """The upper bound that is planned for ATS is not what it spends: the rate found keeps more than the bound would."""

    def sharp(model):
        for block in model.backbone.blocks:  # attention that is not flat: some tokens are sampled more than once
            block.attn.qkv.weight.data.mul_(8)

    run = config("method=ats", "schedule.target_gmac=0.018")
    task = get("task", "classification")()
    answer, notes = solved(run, task, sharp)
    assert "expected on 64 training images" in notes[0]
    torch.manual_seed(run["seed"])
    model = task.build_model(answer).eval()
    sharp(model)
    encode, batches = task.calibration(model, answer, 64)
    with torch.no_grad():
        spent = [encoder_macs(model, encode(images)).total * len(images) for images in batches]
    assert sum(spent) / sum(map(len, batches)) == pytest.approx(0.018e9, rel=0.03)
    assert planned_macs(model, 64).total > 0.018e9 * 1.01


def test_a_threshold_is_found_where_tokens_set_their_own_number():
    """ALGM: what is found is the selector's, spends what is asked on training images, and does not count in the key."""
    run = config("method=algm", "schedule.target_gmac=0.018", "task.batch_size=64")
    task = get("task", "classification")()
    answer, notes = solved(run, task, lambda model: None)
    found = answer["selector"]["threshold"]
    assert f"threshold {found:g} found" in notes[0] and answer["schedule"] == run["schedule"] and found != run["selector"]["threshold"]
    torch.manual_seed(run["seed"])
    model = task.build_model(answer).eval()
    encode, batches = task.calibration(model, answer, 64)
    with torch.no_grad():
        spent = [encoder_macs(model, encode(images)).total * len(images) for images in batches]
    assert sum(spent) / sum(map(len, batches)) == pytest.approx(0.018e9, rel=0.05)
    assert run_key(answer) == run_key(run) != run_key(config("method=algm"))
    assert "threshold is found on training images for 0.018 GMAC" in validate(run)


def test_the_target_of_a_sampler_needs_whole_images(tmp_path):
    class Other:
        def build_model(self, cfg):
            return torch.nn.Linear(1, 1)

    with pytest.raises(InvalidSchedule, match="selector 'ats' is found on whole images.*task=classification, or schedule.keep_rate"):
        solved(config("method=ats", "schedule.target_gmac=0.018"), Other(), lambda model: None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=evit", "schedule.target_gmac=3"], r"target_gmac is 3; this schedule reaches 0.00\d+ to 0.027\d* GMAC"),
        (["method=tome", "schedule.target_gmac=0.001"], "is 0.001; this schedule reaches"),
        (["method=evit", "schedule.target_gmac=much"], "is 'much'; allowed: GMAC an image above 0"),
        (["method=evit", "schedule.target_gmac=-1"], "is -1; allowed: GMAC"),
        (["method=evit", "schedule.target_gmac=120%"], "reaches"),
        (["method=a_vit", "schedule.target_gmac=0.018"], "schedule 'free' has neither keep_rate nor remove"),
        (["method=evit", "schedule=explicit", "schedule.target_gmac=0.018"], "neither keep_rate nor"),
    ],
)
def test_what_cannot_be_met_is_refused_before_anything_runs(overrides, words):
    with pytest.raises(InvalidSchedule, match=words):
        validate(config(*overrides))


def test_a_share_is_of_the_dense_encoder():
    dense = plan(config())[1].total / 1e9
    assert asked(config("method=evit", "schedule.target_gmac=65%")) == pytest.approx(0.65 * dense)
    assert validate(config("method=evit", "schedule.target_gmac=65%")).endswith(f"planned: {0.65 * dense:.3g} GMAC")


def test_only_the_target_counts_in_the_key_and_only_where_there_is_one():
    plain, target = config("method=evit"), config("method=evit", "schedule.target_gmac=0.018")
    assert "target_gmac" not in plain["schedule"] and "target_gmac" not in config("schedule.target_gmac=0.018")["schedule"]
    answer, _ = solved(target, None, None)
    assert answer["schedule"]["keep_rate"] != target["schedule"]["keep_rate"]
    assert run_key(answer) == run_key(target) != run_key(plain)
    assert run_key(config("method=evit", "schedule.target_gmac=0.018", "schedule.keep_rate=0.5")) == run_key(target)


def test_without_a_target_nothing_changes():
    run = config("method=evit")
    assert solved(run, None, None) == (run, [])


@pytest.mark.parametrize(("method", "sampler"), [("ats", True), ("a_vit", True), ("svit", False), ("evit", False), ("dense", False)])
def test_samplers_are_told_by_what_they_declare(method, sampler):
    assert samples(config(f"method={method}")) is sampler
