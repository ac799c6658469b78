"""Segmenter's linear head on a pruned ViT."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tokenprune
from tests.helpers.pairings import images, tiny_vit
from tokenprune.engine.loss import IGNORED
from tokenprune.tasks.segmentation.model import Segmenter, patch_classes, pixel_loss

CROPR = {"name": "cropr", "queries": "patches"}
PLAN = {"name": "per_block", "remove": 9, "start": 1}


def segmenter(selector=None, treatment="last_layer_fusion", classes=5, losses=None):
    vit = tiny_vit(num_classes=classes)
    plan = (treatment, PLAN) if selector else (None, None)
    return Segmenter(tokenprune.prune(vit, selector, *plan, losses=losses or {})).eval()


@torch.no_grad()
def test_a_dense_model_labels_every_patch_by_itself_and_pixels_in_between():
    model, x = segmenter(), images(2)
    vit = model.pruned.backbone
    tokens = vit.forward_features(x)[:, vit.num_prefix_tokens :]
    torch.testing.assert_close(model.label_logits(model.pruned.encode(x)), vit.head(tokens))
    grid = vit.head(tokens).reshape(2, 8, 8, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(x), F.interpolate(grid, (32, 32), mode="bilinear", align_corners=False))


@torch.no_grad()
def test_upsampling_has_the_centres_of_patches_where_they_are():
    """align_corners=False: twice as fine, pixels lie a quarter of a cell beside its centre."""
    model = segmenter(classes=1)
    outputs = model.pruned.encode(images(1))
    ramp = torch.arange(8.0).repeat(8).reshape(1, 64, 1)  # the column of each position
    row = model.upsampled(outputs, ramp, (16, 16))[0, 0, 5]
    assert row.tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25, 5.75, 6.25, 6.75, 7])


@torch.no_grad()
def test_stored_logits_stand_where_nothing_is_held():
    model, x = segmenter("random", "remove"), images(2)
    outputs = model.pruned.encode(x)
    assert 0 < outputs.present.float().mean() < 1
    stored = torch.randn(2, 1 + 64, 5)
    told = replace(outputs, state=outputs.state.replace(traits={"logits": stored}))
    found, plain = model.label_logits(told), model.label_logits(outputs)
    for b in range(2):
        for n in range(64):
            assert torch.equal(found[b, n], plain[b, n] if outputs.present[b, n] else stored[b, 1 + n])


def test_loss_is_the_mean_over_pixels_that_have_a_class():
    logits, maps = torch.randn(2, 5, 6, 6), torch.randint(0, 5, (2, 6, 6))
    maps[0, :3] = IGNORED
    terms = [-logits[b, :, i, j].log_softmax(0)[maps[b, i, j]] for b in range(2) for i in range(6) for j in range(6) if maps[b, i, j] >= 0]
    assert len(terms) == 54 and pixel_loss(logits, maps).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    logits.requires_grad_(True)
    nothing = pixel_loss(logits, torch.full((2, 6, 6), IGNORED))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


def test_labels_of_patches_are_those_of_the_nearest_pixel():
    """PyTorch's `nearest` takes the pixel at floor(i * scale), the upper left one of a whole patch."""
    maps = torch.arange(2 * 8 * 12).reshape(2, 8, 12)
    assert torch.equal(patch_classes(maps, (2, 3)), maps[:, ::4, ::4].flatten(1))
    maps[:, 0, 0] = IGNORED
    assert patch_classes(maps, (2, 3))[:, 0].tolist() == [IGNORED, IGNORED] and patch_classes(maps, (2, 3)).dtype == torch.int64


def test_auxiliary_heads_learn_the_labels_of_patches_and_nothing_else_does_from_them():
    model, x = segmenter(CROPR, losses={"auxiliary": {}}).train(), images(2)
    maps = torch.randint(0, 5, (2, 32, 32))
    losses = model.losses(x, maps)
    assert set(losses) == {"loss_seg", "loss_auxiliary"}
    losses["loss_auxiliary"].backward()
    assert all(p.grad is None for p in model.pruned.backbone.parameters())
    assert all(p.grad is not None for p in model.pruned.selectors.parameters())
    empty = model.losses(x, torch.full((2, 32, 32), IGNORED))
    assert [v.item() for v in empty.values()] == [0, 0]


@torch.no_grad()
def test_the_deployed_model_and_the_dense_one_share_what_they_predict_with():
    model, x = segmenter(CROPR, losses={"auxiliary": {}}), images(2)
    deployed, dense = model.deploy(), model.dense()
    torch.testing.assert_close(deployed(x), model(x), atol=1e-5, rtol=1e-5)
    assert {len(s.query) for s in deployed.pruned.selectors.values()} == {1} != {len(s.query) for s in model.pruned.selectors.values()}
    torch.testing.assert_close(dense(x), Segmenter(tokenprune.prune(model.pruned.backbone)).eval()(x))
    assert not dense.pruned.selectors and dense.pruned.backbone is model.pruned.backbone
    assert model.head_macs(64) == 64 * 24 * 5
