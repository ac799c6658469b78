"""The simple feature pyramid."""

import pytest
import torch

from tokenprune.backbones.pyramid import ChannelNorm, FeaturePyramid
from tokenprune.errors import InvalidConfig


@pytest.mark.parametrize(
    ("patch", "scales", "top", "strides"),
    [
        (16, (4, 2, 1, 0.5), True, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        (8, (2,), False, {"p2": 4}),
        (8, (1, 4), False, {"p1": 2, "p3": 8}),
        (32, (4,), True, {"p3": 8, "p4": 16}),
    ],
)
def test_levels_have_their_strides(patch, scales, top, strides):
    pyramid = FeaturePyramid(16, patch, scales, 8, top)
    maps = pyramid(torch.randn(2, 16, 256 // patch, 128 // patch))
    assert pyramid.strides == strides
    assert {name: tuple(m.shape) for name, m in maps.items()} == {name: (2, 8, 256 // s, 128 // s) for name, s in strides.items()}


@pytest.mark.parametrize("scales", [(3,), (0.25,), (8,), (-1,), (), (2, 2)])
def test_other_scales_are_refused(scales):
    with pytest.raises(InvalidConfig, match="scale"):
        FeaturePyramid(16, 16, scales)


def test_a_patch_size_without_level_names_is_refused():
    with pytest.raises(InvalidConfig, match="power of two"):
        FeaturePyramid(16, 14, (2,))


def test_channel_norm_normalises_each_cell():
    x = torch.randn(2, 6, 3, 4) * 5 + 2
    y = ChannelNorm(6)(x)
    assert torch.allclose(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5)
    assert torch.allclose(y.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3)
    assert ChannelNorm(6)(x[:0]).shape == (0, 6, 3, 4)


def test_every_level_reaches_the_map_and_every_parameter():
    pyramid = FeaturePyramid(16, 16, (4, 2, 1, 0.5), 8, True)
    features = torch.randn(1, 16, 8, 8, requires_grad=True)
    for name, level in pyramid(features).items():
        (gradient,) = torch.autograd.grad(level.square().sum(), features, retain_graph=True)
        assert gradient.abs().sum() > 0, name
    sum(m.pow(2).sum() for m in pyramid(features).values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_a_level_keeps_places():
    """A change in one cell of the map only shows around the same place of each level."""
    pyramid = FeaturePyramid(16, 16, (4, 2, 1, 0.5), 8, False).eval()
    a = torch.randn(1, 16, 16, 16)
    b = a.clone()
    b[:, :, 12, 4] += 3
    for name, (x, y) in {n: (pyramid(a)[n], pyramid(b)[n]) for n in pyramid.strides}.items():
        rows, columns = (x - y).abs().sum((0, 1)).nonzero(as_tuple=True)
        scale = 16 / pyramid.strides[name]
        assert (rows / scale - 12).abs().max() <= 3 and (columns / scale - 4).abs().max() <= 3, name
