"""Elastic training: its passes are those of models built alone, it resumes bit for bit, and nothing of the model is exchanged for good."""

import copy
import itertools
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tokenprune
from tests.helpers.fakes import Killed, kill_at
from tests.helpers.pairings import images, tiny_vit
from tokenprune.errors import InvalidConfig
from tokenprune.training.elastic import Elastic, exchanged
from tokenprune.training.loop import fit
from tokenprune.training.points import ElasticConfig, Point
from tokenprune.training.settings import TrainingConfig

STAGES = {"blocks": [1, 2, 4]}
CFG = ElasticConfig(keep_rates=(0.5, 0.9), treatments=("remove", "preserve"), schedules={"stages": STAGES}, draws=1, distill=0.7)
LABELS = torch.tensor([1, 0, 4])


class Around(nn.Module):
    """A model of a task: an encoder and what reads its map."""

    def __init__(self, pruned):
        super().__init__()
        self.pruned, self.head = pruned, nn.Linear(24, 5)

    def forward(self, x):
        outputs = self.pruned.encode(x)
        return outputs, self.head(outputs.map.mean(1))


def around():
    torch.manual_seed(5)
    return Around(tokenprune.prune(tiny_vit()))


def losses(model, batch):
    """As tasks: the encoder's own losses are asked for."""
    outputs, logits = model(batch)
    return {"loss_cls": F.cross_entropy(logits, LABELS[: len(batch)]), **model.pruned.losses(outputs, logits=logits)}


def at(elastic, *points):
    elastic.now = [Point(*point) for point in points]
    return elastic


def test_a_step_is_the_mean_of_the_whole_pass_and_the_passes_of_models_built_alone():
    x, model = images(3), around()
    elastic = Elastic(CFG, model, losses)
    model.train()
    found = at(elastic, ("topk", "remove", "stages", 0.6), ("topk", "preserve", "stages", 0.9)).losses(model, x)
    reference, plan = copy.deepcopy(model), {"name": "stages", **STAGES}
    whole = losses(reference, x)["loss_cls"]
    parts = []
    for treatment, rate in (("remove", 0.6), ("preserve", 0.9)):
        reference.pruned = tokenprune.prune(reference.pruned.backbone, "topk", treatment, {**plan, "keep_rate": rate}).train()
        parts.append(losses(reference, x)["loss_cls"])
    assert set(found) == {"full_loss_cls", "loss_cls", "loss_elastic"}
    torch.testing.assert_close(found["full_loss_cls"], whole / 3)
    torch.testing.assert_close(found["loss_cls"], sum(parts) / 3)


def test_the_distance_by_loops():
    x, model = images(2), around()
    elastic = at(Elastic(CFG, model, losses), ("topk", "remove", "stages", 0.5))
    model.train()
    found = elastic.losses(model, x)["loss_elastic"]
    with torch.no_grad():
        whole, told = model(x)
        other = tokenprune.prune(model.pruned.backbone, "topk", "remove", {"name": "stages", **STAGES, "keep_rate": 0.5}).train()
        with exchanged(model, model.pruned, other) as changed:
            part, said = changed(x)
    normed = [(t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for t in (part.map, whole.map)]
    kept = part.state.present()
    near = [(normed[0][b, n] - normed[1][b, n]).square().mean() for b in range(2) for n in range(64) if kept[b, n]]
    prefix = [(t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for t in (part.prefix, whole.prefix)]
    kl = (told.softmax(-1) * (told.log_softmax(-1) - said.log_softmax(-1))).sum(-1).mean()
    wanted = 0.7 * (sum(near) / len(near) + (prefix[0] - prefix[1]).square().mean() + kl)
    torch.testing.assert_close(found.detach(), wanted / 2, rtol=1e-4, atol=1e-5)


def test_the_pass_without_pruning_gets_no_gradient_from_the_distance():
    x, model = images(2), around()
    elastic = at(Elastic(CFG, model, losses), ("topk", "remove", "stages", 0.5))
    model.train()
    elastic.losses(model, x)["loss_elastic"].backward()
    one_pass = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    teacher = copy.deepcopy(model).requires_grad_(False)
    outputs, logits = teacher(x)
    distance = elastic.distance
    distance.teacher.outputs, distance.teacher.logits = outputs, logits
    encoder = elastic.points["topk", "remove", "stages"]
    with exchanged(model, elastic.pruned, encoder) as changed:
        seen, said = changed(x)
        (encoder.losses(seen, logits=said)["loss_elastic"] / 2).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, one_pass[name], rtol=1e-3, atol=1e-6)


def test_nothing_is_exchanged_for_good_and_no_key_is_new():
    model = around()
    keys, encoder = list(model.state_dict()), model.pruned
    elastic = Elastic(CFG, model, losses)
    elastic.before_step(0)
    elastic.losses(model.train(), images(2))
    assert model.pruned is encoder and list(model.state_dict()) == keys and not encoder.selectors

    def failing(model, batch):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        at(Elastic(CFG, model, failing), ("topk", "remove", "stages", 0.5)).losses(model, images(2))
    assert model.pruned is encoder


def test_drop_path_that_is_off_stays_off():
    torch.manual_seed(5)
    model = Around(tokenprune.prune(tiny_vit(drop_path_rate=0.5)))
    elastic = at(Elastic(CFG, model, losses), ("topk", "remove", "stages", 0.5))
    model.train()
    drops = [m for m in model.modules() if type(m).__name__ == "DropPath"]
    for module in drops:
        module.eval()
    first = elastic.losses(model, images(2))
    assert drops and not any(m.training for m in drops)
    second = elastic.losses(model, images(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def batches(start):
    for i in range(start, 10**6):
        yield images(3, seed=i)


def recipe(**changes):
    return TrainingConfig(**{"iterations": 6, "batch_size": 3, "lr": 1e-3, "checkpoint_every": 2, "elastic": CFG, **changes})


def trained(folder, killed_at=None):
    model = around()
    elastic = Elastic(CFG, model, losses, seed=0)
    steps = []

    def before(model, iteration):
        if killed_at is not None:
            kill_at(killed_at)(model, iteration)
        elastic.before_step(iteration)
        steps.append((iteration, list(elastic.now)))

    with suppress(Killed):
        fit(model, batches, elastic.losses, recipe(), folder, before_step=before)
    return model, steps


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_training_goes_on_with_the_same_draws_to_the_same_bits(tmp_path, killed_at):
    whole, draws = trained(tmp_path / "whole")
    _, first = trained(tmp_path / "killed", killed_at)
    again, rest = trained(tmp_path / "killed")
    assert first == draws[:killed_at] and rest == draws[killed_at - 1 :] and rest[0][0] == killed_at - 1
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.system
def test_training_brings_the_pruned_passes_nearer(tmp_path):
    """What the whole model learns of three images, it knows afterwards with half of the tokens, too."""
    model, x = around(), images(3)
    elastic = Elastic(CFG, model, losses)
    steps = recipe(iterations=120, lr=5e-3)
    point = ("topk", "remove", "stages", 0.5)
    far = float(at(elastic, point).losses(model.train(), x)["loss_cls"])
    fit(model, lambda start: itertools.repeat(x), elastic.losses, steps, tmp_path, before_step=lambda m, i: elastic.before_step(i))
    near = float(at(elastic, point).losses(model.train(), x)["loss_cls"])
    assert near < 0.5 * far


def test_selectors_and_treatments_with_weights_are_refused():
    with pytest.raises(InvalidConfig, match="the method's selector has weights of its own .*random, topk, evit"):
        Elastic(CFG, tokenprune.prune(tiny_vit(), "cropr", schedule={"remove": 7}), losses)
    learned = ElasticConfig(selectors=("random",), treatments=("cross_attention",), schedules={"stages": STAGES})
    with pytest.raises(InvalidConfig, match="has weights of its own"):
        Elastic(learned, around(), losses)


def test_a_new_class_token_is_the_models_own_or_refused():
    vit = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(InvalidConfig, match="reads a new class token .cls=random.*method=topk"):
        Elastic(CFG, tokenprune.prune(vit), losses, cls="random")
    own = tokenprune.prune(vit, "topk", "preserve", {"name": "stages", **STAGES, "keep_rate": 0.7}, cls="random")
    elastic = Elastic(CFG, own, losses, cls="random")
    assert elastic.points["topk", "remove", "stages"].class_token is own.class_token


def test_one_set_of_weights_serves_a_rate_at_run_time():
    model = around()
    Elastic(CFG, model, losses)
    x, serving = (
        images(2),
        tokenprune.prune(model.pruned.backbone, "topk", "preserve", {"name": "stages", **STAGES, "keep_rate": 0.7}).eval(),
    )
    serving.set_keep_rate(0.6)
    built = tokenprune.prune(model.pruned.backbone, "topk", "preserve", {"name": "stages", **STAGES, "keep_rate": 0.6}).eval()
    with torch.no_grad():
        assert torch.equal(serving(x), built(x))
