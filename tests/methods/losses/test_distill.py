"""Distillation by plain loops over images and kept positions."""

import copy
import math

import pytest
import torch

import tokenprune
from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.loss import LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.distill import Distillation
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

STAGES = {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7}


def other_teacher():
    """A dense model whose weights are not the student's."""
    vit = tiny_vit()
    with torch.no_grad():
        vit.head.weight.add_(torch.randn(vit.head.weight.shape, generator=torch.Generator().manual_seed(8)))
        vit.blocks[3].mlp.fc2.weight.mul_(3.0)
    return tokenprune.prune(vit).eval().requires_grad_(False)


def a_pass(selector, treatment, teacher, schedule=STAGES, **options):
    torch.manual_seed(2)
    model, x = pruned(selector, treatment, schedule, losses={"distill": options}, vit=tiny_vit()).train(), images(3)
    outputs = model.encode(x)
    return model, outputs, LossInputs(outputs, model, images=x, logits=model.logits(outputs), teacher=teacher)


def kl(p, q):
    """KL of two lists of scores after a softmax."""
    soft = [[math.exp(v) / sum(math.exp(w) for w in scores) for v in scores] for scores in (p.tolist(), q.tolist())]
    return sum(a * math.log(a / b) for a, b in zip(*soft, strict=True))


def final_tokens(model, x):
    with torch.no_grad():
        return model.backbone.forward_features(x)[:, 1:]


@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize(
    ("selector", "treatment"), [("dynamicvit", "remove"), ("dynamicvit", "preserve"), ("evit", "remove"), ("spvit", "fuse")]
)
def test_both_terms_by_hand(selector, treatment, kind):
    """Masked training keeps a token in its own slot, gathered execution does not, and a package has no position."""
    teacher = other_teacher()
    model, outputs, facts = a_pass(selector, treatment, teacher)
    with torch.no_grad():
        taught, logits = final_tokens(teacher, facts.images), teacher.backbone(facts.images)
        own = model.backbone.norm(outputs.state.tokens)
    live, index = outputs.state.live, outputs.state.index
    kept = [(b, j) for b in range(3) for j in range(live.shape[1]) if live[b, j] and index[b, j] >= 0]
    assert 0 < len(kept) < 3 * 64
    pairs = [(taught[b, index[b, j]], own[b, j]) for b, j in kept]
    distances = [kl(t, s) if kind == "kl" else float((s - t).square().mean()) for t, s in pairs]
    expected = 0.3 * sum(kl(t, s) for t, s in zip(logits, facts.logits, strict=True)) / 3 + 2.0 * sum(distances) / len(distances)
    assert Distillation(logits=0.3, tokens=2.0, kind=kind).loss(facts).item() == pytest.approx(expected, rel=1e-4)


def test_a_student_that_drops_nothing_has_nothing_to_learn_from_itself():
    vit = tiny_vit()
    teacher = tokenprune.prune(copy.deepcopy(vit)).eval()
    model, outputs, _ = a_pass("dynamicvit", "remove", teacher, {**STAGES, "keep_rate": 1.0})
    facts = {"images": images(3), "logits": model.logits(outputs), "teacher": teacher}
    assert model.losses(outputs, **facts)["loss_distill"].item() == pytest.approx(0.0, abs=1e-6)


def test_where_nothing_is_kept_tokens_teach_nothing():
    loss, map_ = Distillation(), torch.randn(2, 5, 3, requires_grad=True)
    assert loss.of_tokens(torch.randn(2, 5, 3), map_, torch.zeros(2, 5, dtype=torch.bool)).item() == 0.0


def test_the_student_learns_at_kept_positions_and_the_teacher_never():
    teacher = tokenprune.prune(tiny_vit()).eval()
    _, outputs, facts = a_pass("dynamicvit", "preserve", teacher)
    outputs.map.retain_grad()
    Distillation(logits=0.0).loss(facts).backward(retain_graph=True)
    kept = outputs.state.live
    assert (outputs.map.grad[~kept] == 0).all() and (outputs.map.grad[kept].abs().sum(-1) > 0).all()
    Distillation().loss(facts).backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("options", "text"), [({"logits": -1.0}, "logits is -1.0"), ({"tokens": float("nan")}, "tokens is nan"), ({"kind": "l1"}, "mse and kl")]
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        Distillation(**options)


def test_detection_has_no_teacher_and_says_so():
    config = resolve(compose(["method=dynamicvit", "scale=smoke", "task=detection", "+losses.distill={}"]))
    with pytest.raises(InvalidConfig, match="losses.distill needs images, logits, teacher"):
        validate(config, files=False)
