"""MCTF's consistency by a second model of its own, its draws, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.loss import LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.consistency import TokenReductionConsistency, truth
from tokenprune.registry import build
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

EIGHT = {"name": "per_block", "remove": 8, "start": 1, "align": False}
LABELS = torch.tensor([0, 2, 1])


def a_pass(schedule=EIGHT, selector="mctf", losses=None, **options):
    model = pruned(selector, "merge", schedule, losses={"consistency": options} if losses is None else losses, vit=tiny_vit()).train()
    x = images(3)
    outputs = model.encode(x)
    return model, x, LossInputs(outputs, model, images=x, logits=model.logits(outputs), targets=LABELS)


@pytest.mark.parametrize("removed", [0, 3])
def test_both_terms_are_those_of_a_second_model(removed, monkeypatch):
    """The model that merges fewer tokens is built anew here, around the same backbone."""
    model, x, facts = a_pass(confidence=0.0, remove=5)
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor([removed]) if (high, size) == (5, (1,)) else None)
    found = model.losses(facts.outputs, images=x, logits=facts.logits, targets=LABELS)["loss_consistency"]
    other = pruned("mctf", "merge", {**EIGHT, "remove": removed}, vit=model.backbone).train()
    outputs = other.encode(x)
    gaps = (outputs.prefix[:, 0] - facts.outputs.prefix[:, 0]).square().mean(1)
    wanted = 3 * gaps.mean() + F.cross_entropy(other.logits(outputs), LABELS)
    assert gaps.min() > 0
    torch.testing.assert_close(found, wanted)


def test_only_images_that_the_first_pass_is_sure_of_count(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor([1]))
    _, _, facts = a_pass()
    sure = [float(value) for value in truth(facts.logits, LABELS)]
    between = (sorted(sure)[1] + sorted(sure)[2]) / 2  # one of three is surer
    some, all_, none = (TokenReductionConsistency(confidence=c, teacher=0.0).loss(facts).detach() for c in (between, 0.0, 0.999))
    assert none == 0 and not math.isclose(float(some), float(all_))
    whole = TokenReductionConsistency(confidence=0.0, teacher=1.0).loss(facts)
    assert whole > all_


def test_the_first_pass_learns_from_the_distance_and_the_second_from_labels():
    model, _, facts = a_pass(confidence=0.0)
    kept, hooks, blocks = model.selectors, model.hooks, [budget.keep for budget in model.budgets(64).values()]
    loss = TokenReductionConsistency(confidence=0.0, teacher=0.0).loss(facts)
    assert model.selectors is kept and model.hooks is hooks and [b.keep for b in model.budgets(64).values()] == blocks
    loss.backward()
    assert facts.outputs.prefix.grad_fn is not None and model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_truth_of_mixed_and_smoothed_labels_is_that_of_all_that_an_image_shows():
    logits = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
    soft = logits.softmax(-1)[0]
    assert truth(logits, torch.tensor([1]))[0] == soft[1]
    assert truth(logits, torch.tensor([[0.025, 0.625, 0.325, 0.025]]))[0] == pytest.approx(float(soft[1] + soft[2]))


def test_draws_are_below_the_bound_and_reach_it():
    loss = TokenReductionConsistency(remove=3, share=0.15)
    schedule = build("schedule", EIGHT)
    assert {loss.gentler(schedule).remove for _ in range(60)} == {0, 1, 2}
    stages = build("schedule", {"name": "stages", "keep_rate": 0.65, "of": "current"})
    rates = {round(loss.gentler(stages).keep_rate, 2) for _ in range(400)}
    assert rates == {round(1 - n / 100, 2) for n in range(15)}


def test_what_it_refuses():
    with pytest.raises(InvalidConfig, match="weight is -1, teacher is 1.*confidence is 2.*remove is 0.*share is 0"):
        TokenReductionConsistency(weight=-1, teacher=1, confidence=2, remove=0, share=0)
    loss = TokenReductionConsistency()
    with pytest.raises(InvalidConfig, match="schedule 'explicit' has neither remove nor keep_rate"):
        loss.gentler(build("schedule", {"name": "explicit", "keep": {1: 5}}))
    _, _, facts = a_pass()
    headless = replace(facts, outputs=replace(facts.outputs, prefix=facts.outputs.prefix[:, :0]))
    with pytest.raises(InvalidConfig, match="compares class tokens, and the model has none"):
        loss.loss(headless)
    bare = LossInputs(facts.outputs, facts.model)
    with pytest.raises(InvalidConfig, match="was given no images, logits, targets"):
        loss.loss(bare)


def test_the_recipe_is_the_released_command():
    run = resolve(compose(["method=mctf", "scale=paper", "task=classification", "+recipe=mctf_consistency", "dense.init=scratch"]))
    validate(run, files=False)
    assert run["losses"] == {"consistency": {"weight": 3.0, "teacher": 1.0, "confidence": 0.4, "remove": 8}}
    assert (run["training"]["iterations"], run["training"]["batch_size"]) == (30 * 1251, 1024)
    assert (run["training"]["lr"], run["training"]["min_lr"], run["training"]["clip"]) == (3e-5, 1e-6, None)
    assert (run["task"]["mix"]["mixup"], run["task"]["mix"]["cutmix"]) == (0, 0)
