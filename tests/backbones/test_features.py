"""Which maps and levels a backbone's configuration stands for."""

import pytest
import torch

from tokenprune import prune
from tokenprune.backbones.features import build_features
from tokenprune.backbones.maps import DenseMap
from tokenprune.backbones.pyramid import FeaturePyramid
from tokenprune.backbones.vit import build_vit
from tokenprune.backbones.vit_adapter import AdapterPyramid, ViTAdapter
from tokenprune.errors import InvalidConfig

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "drop_path": 0.25}


def features(**changes):
    cfg = {**VIT, **changes}
    return build_features(prune(build_vit(cfg)), cfg, scales=(2, 0.5), channels=6)


def test_the_configuration_decides():
    plain, adapted = features(), features(adapter={"conv_dim": 4})
    assert [type(m) for m in plain] == [DenseMap, FeaturePyramid] and [type(m) for m in adapted] == [ViTAdapter, AdapterPyramid]


def test_both_kinds_give_the_same_levels():
    plain, adapted = features(), features(adapter={"conv_dim": 4})
    x = torch.randn(2, 3, 32, 64)
    shapes = [{name: m.shape for name, m in pyramid(dense(x)).items()} for dense, pyramid in (plain, adapted)]
    assert shapes[0] == shapes[1] and plain[1].strides == adapted[1].strides and plain[1].top == adapted[1].top
    assert plain[1].channels == adapted[1].channels == 6
    assert (plain[0].divisor, adapted[0].divisor) == (8, 16)


def test_the_extractors_drop_path_is_the_vits():
    adapter, _ = features(adapter={"conv_dim": 4})
    assert {m.drop_prob for name, m in adapter.named_modules() if name.startswith("extractors") and name.endswith("drop_path")} == {0.25}


def test_no_parameter_is_added_that_no_level_needs():
    assert sum(p.numel() for p in features(adapter={"conv_dim": 4})[0].parameters()) < sum(
        p.numel() for p in build_features(prune(build_vit(VIT)), {**VIT, "adapter": {"conv_dim": 4}})[0].parameters()
    )


@pytest.mark.parametrize("scales", [(3,), (2, 2), ()])
def test_scales_are_checked_for_both(scales):
    for adapter in (None, {"conv_dim": 4}):
        cfg = {**VIT, "adapter": adapter}
        with pytest.raises(InvalidConfig, match="scale"):
            build_features(prune(build_vit(cfg)), cfg, scales=scales)
