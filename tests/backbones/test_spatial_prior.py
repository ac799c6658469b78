"""The convolutional pyramid beside a ViT."""

import pytest
import torch

from tokenprune.backbones.spatial_prior import SpatialPrior, to_maps


@pytest.mark.parametrize("patch", [8, 16])
def test_levels_have_their_strides_in_their_order(patch):
    prior = SpatialPrior(12, patch, width=4)
    first, tokens, shapes = prior(torch.randn(2, 3, 8 * patch, 4 * patch))
    assert first.shape == (2, 12, 32, 16)
    assert shapes == [(16, 8), (8, 4), (4, 2)] and tokens.shape == (2, 21 * 8, 12)
    assert [m.shape for m in to_maps(tokens, shapes)] == [(2, 12, *shape) for shape in shapes]


def test_a_place_in_the_image_is_the_same_place_on_every_level():
    prior = SpatialPrior(12, 16, width=4).eval()
    torch.manual_seed(0)
    a = torch.randn(1, 3, 256, 256)
    b = a.clone()
    b[:, :, 192:208, 64:80] += 4
    (first_a, a, shapes), (first_b, b, _) = prior(a), prior(b)
    for x, y in zip([first_a, *to_maps(a, shapes)], [first_b, *to_maps(b, shapes)], strict=True):
        _, rows, columns = (x - y).abs().sum(1).nonzero(as_tuple=True)
        cell = 256 / x.shape[-1]
        assert (rows * cell - 200).abs().max() <= 3 * cell + 16 and (columns * cell - 72).abs().max() <= 3 * cell + 16


def test_splitting_undoes_flattening():
    maps = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 2, 3)]
    tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
    for back, m in zip(to_maps(tokens, [(4, 6), (2, 3)]), maps, strict=True):
        assert torch.equal(back, m)


def test_levels_are_told_apart_by_a_learned_vector():
    prior = SpatialPrior(12, 8, width=4).eval()
    with torch.no_grad():
        for layer in prior.project:
            layer.weight.zero_()
        _, tokens, shapes = prior(torch.randn(1, 3, 32, 32))
    for part, embed in zip(to_maps(tokens, shapes), prior.level_embed, strict=True):
        assert torch.equal(part, embed.view(1, -1, 1, 1).expand_as(part))


def test_without_the_finest_map_its_layer_is_not_there():
    prior = SpatialPrior(12, 8, width=4, finest=False)
    assert prior(torch.randn(2, 3, 32, 32))[0] is None and not any("finest" in name for name, _ in prior.named_parameters())
