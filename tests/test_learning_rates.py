"""Which parameters learn how fast, and when."""

import pytest
import torch

from tests.pairings import images, pruned
from tokenprune.errors import InvalidConfig
from tokenprune.learning_rates import learning_rate, lr_factor, parameter_groups
from tokenprune.training import TrainingConfig, fit

DYNAMICVIT = {"iterations": 30, "lr": 1e-3, "min_lr": 1e-6, "warmup": 5, "backbone_lr_scale": 0.01, "backbone_freeze": 5 / 30}


def rates(cfg, iteration, model=None):
    """{name: learning rate} of every parameter."""
    model = pruned("dynamicvit", "remove") if model is None else model
    groups = parameter_groups(model, cfg)
    of = {id(p): learning_rate(group, cfg, iteration) for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def test_the_cosine_ends_at_the_least_rate():
    cfg = TrainingConfig(iterations=1000, lr=1e-3, min_lr=1e-6, warmup=100)
    assert cfg.lr * lr_factor(cfg, 100) == pytest.approx(1e-3) and cfg.lr * lr_factor(cfg, 550) == pytest.approx((1e-3 + 1e-6) / 2)
    assert cfg.lr * lr_factor(cfg, 999) == pytest.approx(1e-6, rel=0.01)
    assert cfg.lr * lr_factor(cfg, 49) == pytest.approx(5e-4)


def test_dynamicvits_predictors_learn_at_once_and_its_backbone_after_five_epochs():
    cfg = TrainingConfig(**DYNAMICVIT)
    for epoch in (0, 4, 5, 6, 29):
        for name, rate in rates(cfg, epoch).items():
            full = 1e-3 * lr_factor(cfg, epoch)
            backbone = 0.0 if epoch < 5 else 0.01 * full
            assert rate == pytest.approx(full if name.startswith("selectors.") else backbone), name


def test_the_freeze_of_the_papers_recipe_ends_with_the_fifth_epoch():
    cfg = TrainingConfig(iterations=37530, backbone_freeze=0.16666666666666666)
    group = {"base_lr": 1.0, "freeze": cfg.backbone_freeze}
    assert learning_rate(group, cfg, 5 * 1251 - 1) == 0.0 < learning_rate(group, cfg, 5 * 1251)


def noise(start):
    for i in range(start, 100):
        yield images(2, seed=i)


def squares(model, batch):
    outputs = model.encode(batch)
    return {"loss": outputs.map.square().mean() + model.logits(outputs).square().mean(), **model.losses(outputs)}


def trained(folder, stop=None, **changes):
    model = pruned("dynamicvit", "remove", losses={"ratio": {}})

    def advance(_, iteration):
        if iteration == stop:
            raise KeyboardInterrupt
        model.progress = iteration / 6

    recipe = TrainingConfig(iterations=6, lr=1e-2, min_lr=1e-4, backbone_freeze=0.5, checkpoint_every=2, **changes)
    fit(model, noise, squares, recipe, folder, before_step=advance)
    return model


def test_a_frozen_backbone_keeps_its_bits_and_moves_after(tmp_path):
    before = pruned("dynamicvit", "remove").state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, stop=3)  # the checkpoint is of iteration 2, all of it in the freeze
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    moved = {name for name, value in saved.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("selectors.") for name in moved)
    after = trained(tmp_path).state_dict()
    assert not torch.equal(after["backbone.blocks.0.attn.qkv.weight"], before["backbone.blocks.0.attn.qkv.weight"])


def test_a_run_killed_in_or_after_the_freeze_ends_with_the_same_bits(tmp_path):
    whole = trained(tmp_path / "whole").state_dict()
    for stop in (2, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / str(stop), stop=stop)
        again = trained(tmp_path / str(stop)).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"min_lr": 1.0}, "min_lr is 1.0, allowed are 0 to training.lr"),
        ({"min_lr": 1e-5, "schedule": "constant"}, "no meaning in 'constant'.*set 0"),
        ({"backbone_freeze": 1.0}, "backbone_freeze is 1.0"),
    ],
)
def test_bad_rates_are_refused(changes, text):
    with pytest.raises(InvalidConfig, match=text):
        TrainingConfig(iterations=10, **changes)
