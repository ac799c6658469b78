"""A fusion is trained, saved, and added to a dense model as selectors are; a task counts it."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune import prune
from tokenprune.tasks.base import parameters_of
from tokenprune.training.learning_rates import parameter_groups
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils.checkpoints import load_dense, load_weights, save_weights

KINDS = ("cross_attention", "cross_attention_concat", "mhsa_concat")


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_the_map_reaches_all_of_it(kind):
    model = pruned("random", kind).train()
    model.encode(images(2)).map.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.fusion.parameters())
    silent = [name for name, p in model.fusion.named_parameters() if not p.grad.abs().sum() > 0]
    assert all(name.endswith("key.bias") for name in silent), silent  # a softmax does not see what all keys share


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_as_fast_as_selectors_and_a_head_alone_does_not(kind):
    """What pruning adds is new, where the head of a dense model is trained: `selector_lr_scale` is of both."""
    model = pruned("cropr", kind)
    cfg = TrainingConfig(iterations=9, lr=1e-3, selector_lr_scale=10.0, backbone_lr_scale=0.5, weight_decay=0.1)
    of = {id(p): group for group in parameter_groups(model, cfg) for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        scale = 0.5 if name.startswith("backbone.") else 10.0
        assert of[id(p)]["base_lr"] == pytest.approx(1e-3 * scale), name
    assert of[id(model.backbone.head.weight)]["base_lr"] == pytest.approx(5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_have_it_and_a_dense_one_leaves_it_fresh(kind, tmp_path):
    model = pruned("cropr", kind)
    save_weights(tmp_path / "own.safetensors", model)
    other = pruned("cropr", kind, vit=tiny_vit())
    with torch.no_grad():
        for p in other.fusion.parameters():
            p.zero_()
    load_weights(tmp_path / "own.safetensors", other)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))

    dense = prune(tiny_vit())
    with torch.no_grad():
        for p in dense.parameters():
            p.add_(1.0)
    save_weights(tmp_path / "dense.safetensors", dense)
    fresh = {name: p.clone() for name, p in other.fusion.named_parameters()}
    load_dense(other, tmp_path / "dense.safetensors")
    assert torch.equal(other.backbone.head.weight, dense.backbone.head.weight)
    assert all(torch.equal(p, fresh[name]) for name, p in other.fusion.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployed_model_keeps_it(kind):
    model, C = pruned("cropr", kind), 24
    own = sum(p.numel() for p in model.fusion.parameters())
    vit = sum(p.numel() for p in tiny_vit().parameters())
    assert parameters_of(model) == vit + own + 3 * C  # three routers with a query each
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(model.deploy().encode(x).map, model.eval().encode(x).map, atol=1e-5, rtol=1e-4)
