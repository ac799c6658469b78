"""MACs that torch counts against MACs written down by hand, and against the analytic ones of ViTs."""

import pytest
import timm
import torch
from torch import nn

import tokenprune
from tokenprune.measure.macs import planned_macs
from tokenprune.measure.timm_macs import counted


def test_layers_by_hand():
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Flatten(), nn.Linear(8 * 64, 10)
        )

    cost = counted(build, 16)
    assert cost.linear == 64 * 8 * 27 + 64 * 8 * 25 + 512 * 10 and cost.attention == 0 and cost.total == cost.linear
    assert cost.parameters == (8 * 27 + 8) + (8 * 25 + 8) + (5120 + 10)


class Attends(nn.Module):
    """Softmax attention of 4 heads over the rows of an image, fused or written out."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.qkv = fused, nn.Linear(48, 96, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(x.permute(0, 2, 3, 1).flatten(2)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_attention_counts_however_it_is_written(fused):
    cost = counted(lambda: Attends(fused), 16)
    assert cost.linear == 16 * 48 * 96 and cost.attention == 2 * 16 * 16 * 32


@pytest.mark.parametrize(
    ("name", "size", "linear", "total"), [("vit_large_patch16_224", 224, 59.65, 61.55), ("eva02_large_patch14_448", 448, 310.11, 361.75)]
)
def test_vits_cost_what_they_are_planned_to(name, size, linear, total):
    cost = counted(lambda: timm.create_model(name), size)
    with torch.device("meta"):
        model = tokenprune.prune(timm.create_model(name).eval())
    plan = planned_macs(model, model.family.own_positions, head=True)
    assert (cost.linear, cost.attention, cost.total) == (plan.linear, plan.attention, plan.total)
    assert (cost.linear / 1e9, cost.total / 1e9) == (pytest.approx(linear, abs=0.006), pytest.approx(total, abs=0.006))
    assert cost.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "tokens"), [("vit_base_patch16_siglip_224", 196)])
def test_models_that_pool_by_attention_are_counted(name, tokens):
    pooled, plain = (counted(lambda pool=pool: timm.create_model(name, global_pool=pool, num_classes=0), 224) for pool in ("map", ""))
    C = 768
    assert plain.attention == 2 * 12 * tokens**2 * C
    assert pooled.attention - plain.attention == 2 * tokens * C  # one query
    assert pooled.linear - plain.linear == pytest.approx(tokens * 2 * C * C + C * C * (2 + 8), rel=1e-6)  # keys, values; query, output, MLP
