"""Multi-scale deformable attention against a scalar loop."""

import math

import pytest
import torch

from tokenprune.backbones.deformable import DeformableAttention, cell_centres, ring, sample
from tokenprune.errors import InvalidConfig

LEVELS = [[(3, 4)], [(4, 6), (2, 3), (1, 2)]]


def pixel(values, shape, start, b, row, column, head):
    height, width = shape
    if not (0 <= row < height and 0 <= column < width):
        return torch.zeros_like(values[0, 0, 0])
    return values[b, start + row * width + column, head]


def bilinear(values, shape, start, b, head, x, y):
    """The value at pixel coordinates: cell (i,j) has its centre at (j, i), zeros outside."""
    left, top = math.floor(x), math.floor(y)
    total = torch.zeros_like(values[0, 0, 0])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        total = total + (1 - abs(x - column)) * (1 - abs(y - row)) * pixel(values, shape, start, b, row, column, head)
    return total


def loop(values, shapes, places, weights):
    """The definition, one scalar place after the other."""
    B, Q, heads, _, points = weights.shape
    result = torch.zeros(B, Q, heads, values.shape[-1], dtype=values.dtype)
    for b in range(B):
        for q in range(Q):
            for head in range(heads):
                start = 0
                for level, (height, width) in enumerate(shapes):
                    for p in range(points):
                        x, y = places[b, q, head, level, p].tolist()
                        read = bilinear(values, (height, width), start, b, head, x * width - 0.5, y * height - 0.5)
                        result[b, q, head] += weights[b, q, head, level, p] * read
                    start += height * width
    return result.flatten(2)


def inputs(shapes, seed=0, B=2, Q=5, heads=3, points=2, d=4):
    torch.manual_seed(seed)
    values = torch.randn(B, sum(h * w for h, w in shapes), heads, d, dtype=torch.float64)
    places = torch.rand(B, Q, heads, len(shapes), points, 2, dtype=torch.float64) * 1.8 - 0.4  # also outside of the image
    weights = torch.rand(B, Q, heads, len(shapes), points, dtype=torch.float64)
    return values, places, weights


@pytest.mark.parametrize("shapes", LEVELS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_sampling_equals_a_scalar_loop(shapes, seed):
    values, places, weights = inputs(shapes, seed)
    assert ((places < 0) | (places > 1)).any()
    torch.testing.assert_close(sample(values, shapes, places, weights), loop(values, shapes, places, weights), atol=1e-10, rtol=0)


def test_far_outside_there_is_nothing():
    values, places, weights = inputs([(3, 4)])
    assert torch.equal(sample(values, [(3, 4)], places + 5, weights), torch.zeros(2, 5, 12, dtype=torch.float64))


@pytest.mark.parametrize("shapes", LEVELS, ids=str)
def test_gradients_are_those_of_finite_differences(shapes):
    values, places, weights = (t.requires_grad_() for t in inputs(shapes, B=1, Q=2, heads=2, d=2))
    assert torch.autograd.gradcheck(lambda v, p, w: sample(v, shapes, p, w), (values, places, weights))


def test_a_cell_read_at_its_centre_is_itself():
    shapes = [(2, 3), (4, 1)]
    values = torch.randn(1, 10, 1, 5, dtype=torch.float64)
    for level, part in enumerate((values[:, :6], values[:, 6:])):
        places = cell_centres([shapes[level]]).double()[None, :, None, None, None]
        read = sample(part, [shapes[level]], places, torch.ones(places.shape[:-1], dtype=torch.float64))
        torch.testing.assert_close(read, part.flatten(2), atol=1e-6, rtol=0)
    assert torch.equal(cell_centres(shapes), torch.cat([cell_centres([s]) for s in shapes]))


@pytest.mark.parametrize("shapes", LEVELS, ids=str)
def test_the_module_equals_the_loop_around_its_own_layers(shapes):
    torch.manual_seed(1)
    attention = DeformableAttention(12, heads=3, levels=len(shapes), points=2, ratio=0.5).double()
    torch.nn.init.normal_(attention.offsets.weight, std=0.5)
    torch.nn.init.normal_(attention.weights.weight)
    queries = torch.randn(2, 4, 12, dtype=torch.float64)
    features = torch.randn(2, sum(h * w for h, w in shapes), 12, dtype=torch.float64)
    reference = torch.rand(2, 4, 2, dtype=torch.float64)
    out = attention(queries, reference, features, shapes)
    offsets = attention.offsets(queries).view(2, 4, 3, len(shapes), 2, 2)
    places = torch.stack([reference[:, :, None, None] + offsets[:, :, :, i] / torch.tensor([w, h]) for i, (h, w) in enumerate(shapes)], 3)
    weights = attention.weights(queries).view(2, 4, 3, -1).softmax(-1).view(2, 4, 3, len(shapes), 2)
    read = loop(attention.values(features).view(2, -1, 3, 2), shapes, places, weights)
    torch.testing.assert_close(out, attention.output(read), atol=1e-10, rtol=0)


def test_it_starts_on_a_ring_of_whole_cells_all_weighted_alike():
    offsets = ring(heads=4, levels=2, points=3)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(3):
        torch.testing.assert_close(offsets[:, 1, point], directions * (point + 1), atol=1e-6, rtol=0)
    assert torch.allclose(ring(8, 1, 4).abs().amax(-1), torch.arange(1.0, 5))  # diagonal neighbours are whole cells away, too
    attention = DeformableAttention(8, heads=4, levels=1, points=1)
    torch.nn.init.eye_(attention.values.weight)
    torch.nn.init.eye_(attention.output.weight)
    features = torch.randn(1, 25, 8)
    out = attention(torch.randn(1, 1, 8), cell_centres([(5, 5)])[None, 12:13], features, [(5, 5)])
    around = torch.cat([features[0, i, 2 * h : 2 * h + 2] for h, i in enumerate((13, 17, 11, 7))])  # right, below, left, above
    torch.testing.assert_close(out[0, 0], around, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_finite_gradient():
    attention = DeformableAttention(12, heads=3, levels=2, points=2)
    out = attention(torch.randn(1, 4, 12), torch.rand(1, 4, 2), torch.randn(1, 15, 12), [(3, 4), (1, 3)])
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in attention.parameters())


def test_heads_that_do_not_divide_the_values_are_refused():
    with pytest.raises(InvalidConfig, match="5 heads do not divide 12 channels"):
        DeformableAttention(24, heads=5, levels=1, points=1, ratio=0.5)
