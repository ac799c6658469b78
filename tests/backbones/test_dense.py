"""Every token at its own cell of the map."""

import torch

from tokenprune.backbones.maps import DenseMap
from tokenprune.backbones.vit import build_vit
from tokenprune.engine.prune import prune

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
PLAN = {"name": "stages", "blocks": [1, 2], "keep_rate": 0.5}


def test_the_map_is_timms_tokens_in_raster_order():
    vit = build_vit(VIT).eval()
    dense = DenseMap(prune(vit)).eval()
    images = torch.randn(2, 3, 32, 48)
    tokens = vit.forward_features(images)[:, 1:]
    assert torch.allclose(dense(images), tokens.transpose(1, 2).reshape(2, 24, 4, 6), atol=1e-5)


def test_removed_cells_are_zero_and_present_ones_are_not():
    torch.manual_seed(0)
    dense = DenseMap(prune(build_vit(VIT), selector="evit", treatment="remove", schedule=PLAN)).eval()
    with torch.no_grad():
        map_ = dense(torch.randn(2, 3, 32, 32))
    filled = map_.abs().sum(1).flatten(1) > 0
    assert torch.equal(filled, dense.last_outputs.present) and 0 < filled.sum(1).max() < 16


def test_losses_of_a_gate_arrive_in_training_only():
    dense = DenseMap(prune(build_vit(VIT), selector="svit", schedule=PLAN, treatment="preserve", losses={"ratio": {}}))
    assert dense.losses() == {}
    dense.train()(torch.randn(2, 3, 32, 32))
    (value,) = dense.losses().values()
    assert value.requires_grad
    dense.eval()(torch.randn(2, 3, 32, 32))
    assert dense.losses() == {}
