"""The classification task."""

import copy
from itertools import islice

import pytest
import torch

from tokenprune.errors import InvalidConfig
from tokenprune.registry import get
from tokenprune.tasks.classification import patch_labels
from tokenprune.training import TrainingConfig, fit

CONFIG = {
    "selector": {"name": "none"}, "treatment": {"name": "none"}, "schedule": {"name": "none"},
    "cls": "learned", "execution": "auto", "losses": {},
    "backbone": {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "task": {"name": "classification", "batch_size": 7, "cost_images": 3, "speed_images": 2},
    "data": {"name": "shapes", "side": 64, "train_size": 16, "val_size": 10, "seed": 0},
    "training": {"batch_size": 8, "seed": 0},
}  # fmt: skip
PRUNED = {"selector": {"name": "svit"}, "treatment": {"name": "preserve"}, "losses": {"ratio": {}},
          "schedule": {"name": "stages", "blocks": [1], "keep_rate": 0.5}}  # fmt: skip


def new(**changes):
    cfg = {**copy.deepcopy(CONFIG), **changes}
    task = get("task", "classification")()
    torch.manual_seed(0)
    return task, cfg, task.build_model(cfg)


def test_learns_a_few_pictures_by_heart(tmp_path):
    task, cfg, model = new()
    cfg["task"] |= {"flip": False, "vertical_flip": False, "channels": False}
    before = task.evaluate(model, cfg)["top1"]
    recipe = TrainingConfig(iterations=100, batch_size=8, lr=2e-3, warmup=5)
    report = fit(model, lambda start: task.train_batches(cfg, start), task.losses, recipe, tmp_path)
    task.images._splits["val"] = task.images.split("train")
    after = task.evaluate(model, cfg)
    assert after["top1"] >= 90 > before and report.losses["loss_cls"] < 0.5


def test_standard_error_is_binomial():
    task, cfg, model = new()
    metrics = task.evaluate(model, cfg)
    share = metrics["top1"] / 100
    assert metrics["top1"] % 10 == pytest.approx(0, abs=1e-6)  # ten images, the last batch of three included
    assert metrics["top1_se"] == pytest.approx(100 * (share * (1 - share) / 10) ** 0.5)


def test_the_encoders_losses_arrive_and_everything_learns():
    task, cfg, model = new(**PRUNED)
    losses = task.losses(model.train(), next(task.train_batches(cfg, 0)))
    assert set(losses) == {"loss_cls", "loss_ratio"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_cost_of_a_pruned_model_is_lower():
    task, cfg, dense = new()
    _, pruned_cfg, pruned = new(selector={"name": "evit"}, treatment={"name": "remove"}, schedule=PRUNED["schedule"])
    full, less = task.cost(dense, cfg), task.cost(pruned, pruned_cfg)
    assert less["gmac_total"] < full["gmac_total"] and less["kept_share"] < full["kept_share"] == 1
    assert full["kept_per_block"] == [1.0] * 3 and full["seconds_encoder"] > 0


def test_batches_depend_on_the_iteration_alone():
    task, cfg, _ = new()
    whole = list(islice(task.train_batches(cfg, 0), 5))
    later = list(islice(task.train_batches(cfg, 3), 2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[3:], later, strict=True))
    assert whole[0][0].shape == (8, 3, 64, 64) and whole[0][0].dtype == torch.uint8


def test_patch_labels_by_the_share_of_object_pixels():
    maps = torch.full((1, 8, 8), -1)
    maps[0, :4, :4], maps[0, 4:6, 4:8] = 3, 3
    maps[0, 4, 0], maps[0, 4:, 1] = 3, 5  # a single pixel, and another class: not this image's object
    assert patch_labels(maps, torch.tensor([3]), 4, none=9).tolist() == [3, 9, 9, 3]


def test_token_labels_teach_every_patch():
    task, cfg, model = new(task={**CONFIG["task"], "token_labels": 1.0})
    losses = task.losses(model.train(), next(task.train_batches(cfg, 0)))
    assert set(losses) == {"loss_cls", "loss_tokens"} and model.backbone.head.out_features == 9
    losses["loss_tokens"].backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_a_misspelt_setting_is_refused():
    with pytest.raises(InvalidConfig, match="did you mean 'flip'"):
        new(task={"name": "classification", "flipp": True})
