"""What pictures and their labels go through: geometry alike for both, draws that depend on seed and place alone."""

import numpy as np
import pytest
import torch

from tokenprune.tasks.segmentation.settings import PixelAugmentation
from tokenprune.tasks.segmentation.views import TrainingView, View, fitted, padded, resized, view_of

STATISTICS = ((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


def painted(labels):
    """A view whose first channel says the label of each pixel, times 50."""
    labels = torch.as_tensor(labels)
    return View((50 * labels.clamp(min=0)).to(torch.uint8).expand(3, -1, -1).clone(), labels)


def blocks(height, width, seed=0, size=8):
    """Labels 0 to 4 in blocks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (height // size, width // size))
    return painted(torch.from_numpy(coarse.repeat(size, 0).repeat(size, 1)))


@pytest.mark.parametrize(("size", "expected"), [((48, 96), (32, 64)), ((100, 50), (64, 32)), ((16, 8), (64, 32)), ((64, 64), (64, 64))])
def test_the_longer_side_becomes_the_models(size, expected):
    view = fitted(painted(torch.zeros(size, dtype=torch.long)), 64)
    assert view.size == expected and view.image.shape == (3, *expected) and view.image.dtype == torch.uint8


def test_labels_are_never_mixed():
    view = resized(painted(torch.tensor([[0, 4], [4, 0]])), (5, 7))
    assert set(view.labels.unique().tolist()) == {0, 4} and len(view.image.unique()) > 2


def test_padding_is_zero_after_normalisation_and_has_no_label():
    view = view_of(np.full((2, 3, 3), 150, dtype=np.uint8), np.ones((2, 3), dtype=np.int64))
    images, labels = padded([view], 4, STATISTICS)
    assert images.shape == (1, 3, 4, 4) and labels.tolist() == [[[1, 1, 1, -1], [1, 1, 1, -1], [-1] * 4, [-1] * 4]]
    assert images[0, :, 0, 0].tolist() == pytest.approx([1.0, 40 / 60, 30 / 70]) and not images[0, :, 2:].any() and not images[..., 3].any()


@pytest.mark.parametrize("policy", ["light", "segmenter"])
def test_a_view_is_a_function_of_seed_and_place(policy):
    augment, view = PixelAugmentation(policy=policy, vertical_flip=True, channels=True), blocks(96, 128)
    draw = TrainingView(augment, 64, seed=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    seen = [draw(view, place) for place in range(8)]
    again = [TrainingView(augment, 64, seed=3)(view, place) for place in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for one, two in zip(seen, again, strict=True) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is as it was"
    assert len({tuple(s.labels.flatten().tolist()) for s in seen}) > 2
    other = TrainingView(augment, 64, seed=4)
    assert any(not torch.equal(other(view, p).labels, s.labels) for p, s in enumerate(seen) if other(view, p).size == s.size)


def test_light_turns_picture_and_labels_alike():
    augment = PixelAugmentation(flip=True, vertical_flip=True)
    view, draw, found = blocks(64, 48), TrainingView(augment, 64, 0), set()
    for place in range(24):
        seen = draw(view, place)
        assert seen.size == (64, 48) and torch.equal(seen.image[0], (50 * seen.labels).to(torch.uint8))
        turns = {"": [], "h": [1], "v": [0], "hv": [0, 1]}
        found |= {name for name, dims in turns.items() if torch.equal(seen.labels, view.labels.flip(dims))}
    assert found == {"", "h", "v", "hv"}


def test_the_recipe_of_segmenter_cuts_and_resizes_picture_and_labels_alike():
    augment = PixelAugmentation(policy="segmenter", distort=False)
    view, draw, sizes = blocks(96, 160, size=32), TrainingView(augment, 64, 0), set()
    for place in range(40):
        seen = draw(view, place)
        sizes.add(seen.size)
        assert max(seen.size) <= 64
        agree = (seen.image[0].float() / 50 - seen.labels).abs() < 0.5  # off only where colours are mixed at borders
        assert agree.float().mean() > 0.75
    assert (64, 64) in sizes and min(min(s) for s in sizes) < 40, "half the size leaves 32 x 53 pixels, to be padded"


def test_shorter_sides_are_between_half_and_twice_the_models():
    augment = PixelAugmentation(policy="segmenter", distort=False, flip=False, most=1.0)
    wide = painted(torch.arange(400).expand(100, 400) // 20)
    widths = [int(TrainingView(augment, 64, 0)(wide, place).labels.unique().numel()) for place in range(60)]
    # 64 pixels of a picture 64 r high show 64 * 100 / (64 r) = 100 / r of its columns, 5 / r labels, 2.5 to 10 of them
    assert min(widths) in (3, 4) and max(widths) in (9, 10, 11)


def test_no_class_has_more_than_its_share_where_that_can_be():
    """Of 193 places for the square 17 have at least a quarter of class 1: 9 % at the first try, 1 - 0.91^10 = 60 % in ten."""
    labels = torch.zeros(64, 256, dtype=torch.long)
    labels[:, 224:] = 1
    mixed = {}
    for most in (0.75, 1.0):
        keep = PixelAugmentation(policy="segmenter", distort=False, ratio=(1.0, 1.0), most=most)
        parts = [TrainingView(keep, 64, 0)(painted(labels), place).labels for place in range(100)]
        mixed[most] = sum(0.25 <= float((part == 0).float().mean()) <= 0.75 for part in parts)
    assert 45 <= mixed[0.75] <= 75 and mixed[1.0] <= 18
    alone = TrainingView(keep, 64, 0)(painted(torch.zeros(64, 256, dtype=torch.long)), 0)
    assert alone.size == (64, 64), "a picture of one class is taken as it is"


def test_distortion_changes_colours_and_no_label():
    plain, distorted = (PixelAugmentation(policy="segmenter", distort=d, ratio=(1.0, 1.0), flip=False) for d in (False, True))
    view = blocks(64, 64)
    pairs = [(TrainingView(plain, 64, 0)(view, p), TrainingView(distorted, 64, 0)(view, p)) for p in range(16)]
    assert all(torch.equal(a.labels, b.labels) for a, b in pairs)
    changed = [not torch.equal(a.image, b.image) for a, b in pairs]
    assert any(changed) and not all(changed), "each of four with probability 1/2"
