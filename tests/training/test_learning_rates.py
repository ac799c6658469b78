"""Which parameters learn how fast, and when."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune import prune
from tokenprune.errors import InvalidConfig
from tokenprune.training.learning_rates import learning_rate, lr_factor, parameter_groups
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig

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


def test_a_polynomial_falls_to_nothing():
    cfg = TrainingConfig(iterations=1000, lr=2e-5, schedule="poly")
    assert [lr_factor(cfg, i) for i in (0, 500, 900)] == pytest.approx([1.0, 0.5**0.9, 0.1**0.9])
    assert lr_factor(TrainingConfig(iterations=110, warmup=10, schedule="poly", power=2.0), 60) == pytest.approx(0.25)
    with pytest.raises(InvalidConfig, match="power is 0"):
        TrainingConfig(iterations=1, power=0.0)


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


def test_layer_decay_by_an_explicit_table():
    """MAE's rates: what follows the blocks learns at the full one, each block three quarters as fast as the one above it, tokens last."""
    cfg = TrainingConfig(iterations=10, lr=1.0, layer_decay=0.75, selector_lr_scale=1.0, schedule="constant")
    model = pruned("cropr", "last_layer_fusion", vit=tiny_vit(global_pool="avg", reg_tokens=1))
    scale = {"cls_token": 0.75**7, "reg_token": 0.75**7, "pos_embed": 0.75**7, "patch_embed": 0.75**7, "fc_norm": 1.0, "head": 1.0}
    blocks = (0.177978515625, 0.2373046875, 0.31640625, 0.421875, 0.5625, 0.75)
    scale |= {f"blocks.{n}": rate for n, rate in enumerate(blocks)}
    found = rates(cfg, 0, model)
    for name, rate in found.items():
        part = next((p for p in scale if name.startswith(f"backbone.{p}")), None)
        assert rate == pytest.approx(1.0 if part is None else scale[part], rel=1e-12), name
        assert (part is None) == name.startswith("selectors.")
    assert sum("selectors." in name for name in found) > 10


def test_layer_decay_of_other_families_and_beside_other_scales():
    """Frozen or slow backbones stay so; norms in front of the blocks belong to what makes tokens."""
    import timm

    small = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 2}
    models = {
        "eva02_tiny_patch14_224": {"norm", "head", "fc_norm"},
        "vit_medium_patch16_clip_224": {"norm", "head"},
        "deit_tiny_distilled_patch16_224": {"norm", "head", "head_dist"},
    }  # fmt: skip
    for name, after in models.items():
        vit = timm.create_model(name, **small)
        half = rates(TrainingConfig(iterations=10, lr=1.0, layer_decay=0.5, backbone_lr_scale=0.1, schedule="constant"), 0, prune(vit))
        for key, rate in half.items():
            first, second = key.split(".")[1:3] if key.count(".") > 1 else (key.split(".")[1], "")
            power = 0 if first in after else 2 - int(second) if first == "blocks" else 3
            assert rate == pytest.approx(0.1 * 0.5**power), key
        assert {"norm_pre"} <= {k.split(".")[1] for k in half} or "clip" not in name


def test_croprs_matrices_decay_and_its_vectors_do_not():
    model = pruned("cropr", "last_layer_fusion")
    groups = parameter_groups(model, TrainingConfig(iterations=1, weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name.removeprefix("1."): decay[id(p)] for name, p in model.selectors.named_parameters() if name.startswith("1.")}
    assert found == {
        "query": 0.05, "auxiliary.norm.weight": 0.0, "auxiliary.norm.bias": 0.0, "auxiliary.mlp.fc1.weight": 0.05,
        "auxiliary.mlp.fc1.bias": 0.0, "auxiliary.mlp.fc2.weight": 0.05, "auxiliary.mlp.fc2.bias": 0.0, "auxiliary.head.0.weight": 0.0,
        "auxiliary.head.0.bias": 0.0, "auxiliary.head.1.weight": 0.05, "auxiliary.head.1.bias": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layer_decay": 0.0}, "layer_decay is 0.0, allowed are null and 0 < decay <= 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"min_lr": 1.0}, "min_lr is 1.0, allowed are 0 to training.lr"),
        ({"min_lr": 1e-5, "schedule": "constant"}, "no meaning in 'constant'.*set 0"),
        ({"backbone_freeze": 1.0}, "backbone_freeze is 1.0"),
    ],
)
def test_bad_rates_are_refused(changes, text):
    with pytest.raises(InvalidConfig, match=text):
        TrainingConfig(iterations=10, **changes)
