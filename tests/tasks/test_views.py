"""Views, variations and mixing: values by hand, and noise that is a function of (seed, place)."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.loss import SoftTargetCrossEntropy

from tokenprune.tasks.classification.settings import Augmentation, ClassificationConfig, Mixing, View
from tokenprune.tasks.classification.views import EvaluationView, Mixer, TrainingView, as_input, collate, flipped
from tokenprune.tasks.pixels import IMAGE_MEAN, IMAGE_STD

DEIT = Augmentation()
UNIT = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def picture(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (64, 64), (90, 33)])
def test_the_view_is_a_resized_shorter_side_and_its_centre(height, width):
    image = picture(height, width)
    seen = EvaluationView(View(crop_pct=0.875, interpolation="bilinear"), 28)(image)
    scale = 32 / min(height, width)  # 28 / 0.875
    size = (32, int(32 * height / width)) if height > width else (int(32 * width / height), 32)
    assert min(size) == 32 and scale > 0
    resized = np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))
    top, left = round((size[1] - 28) / 2), round((size[0] - 28) / 2)
    assert seen.dtype == np.uint8 and np.array_equal(seen, resized[top : top + 28, left : left + 28])


def test_a_full_crop_of_the_right_size_is_the_image():
    image = picture(32, 32)
    assert np.array_equal(EvaluationView(View(crop_pct=1.0), 32)(image), image)


def test_without_any_variation_training_sees_what_a_test_sees():
    view, plain = View(crop_pct=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5)), Augmentation((1, 1), (1, 1), 0.0, None, 0.0, 0.0)
    image = picture(32, 32)
    varied = TrainingView(plain, view, 32, seed=0)(image, 7)
    expected = (image / 255 - np.array(view.mean)) / np.array(view.std)
    assert varied.dtype == np.float32 and np.allclose(varied, expected, atol=1e-5)


def disturb():
    random.random(), np.random.rand(3), torch.rand(3)


@given(st.integers(0, 2**31), st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_a_variation_depends_on_seed_and_place_alone(seed, place):
    image, vary = picture(), TrainingView(DEIT, View(), 24, seed)
    first = vary(image, place)
    disturb()
    vary(image, place + 1)
    assert np.array_equal(first, TrainingView(DEIT, View(), 24, seed)(image, place))


def test_variations_differ_by_seed_and_place_and_leave_the_generators_alone():
    image, vary = picture(), TrainingView(DEIT, View(), 24, 0)
    seen = {vary(image, place).tobytes() for place in range(8)} | {TrainingView(DEIT, View(), 24, 1)(image, p).tobytes() for p in range(8)}
    assert len(seen) == 16
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    vary(image, 0)
    Mixer(Mixing(), 4, 0, UNIT)(batch(4))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("augment", [{"erase": 1.0}, {"policy": "rand-m9-n2-p1.0"}, {"color_jitter": 0.9}, {"flip": 1.0}], ids=str)
def test_each_part_of_the_recipe_does_something(augment):
    still = {"area": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "policy": None, "color_jitter": 0.0, "erase": 0.0}
    image = picture(32, 32)
    plain = TrainingView(Augmentation(**still), View(), 32, 0)(image, 0)
    changed = [np.mean(TrainingView(Augmentation(**{**still, **augment}), View(), 32, 0)(image, p) != plain) for p in range(6)]
    assert np.mean(changed) > 0.02


def batch(n, classes=4, place=0, size=8):
    return [(picture(size, size, seed=i), i % classes, place + i) for i in range(n)]


@given(st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.0, 0.0)]), st.floats(0, 0.5), st.integers(0, 10**6), st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_targets_sum_to_one_and_images_are_mixed_as_they_say(alphas, smoothing, place, classes):
    n = 6
    images, targets = Mixer(Mixing(*alphas, smoothing=smoothing), classes, 0, UNIT)(batch(n, classes, place))
    assert targets.shape == (n, classes) and torch.allclose(targets.sum(1), torch.ones(n), atol=1e-5) and targets.min() >= 0
    plain = as_input(collate([s[:-1] for s in batch(n, classes)])[0], UNIT)
    labels = torch.tensor([i % classes for i in range(n)])
    smooth = torch.nn.functional.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    if alphas == (0.0, 0.0):
        assert torch.equal(images, plain) and torch.allclose(targets, smooth, atol=1e-6)
        return
    own = (images == plain).all(1)  # pixels of CutMix that stay; by Mixup hardly any
    share = own.float().mean((1, 2))[0] if alphas[0] == 0 or own.any() else _weight(images, plain)
    expected = share * smooth + (1 - share) * smooth.flip(0)
    assert torch.allclose(targets, expected, atol=0.02)


def _weight(images, plain):
    """The lam of images = lam * plain + (1 - lam) * its reverse, by least squares."""
    a, b = plain - plain.flip(0), images - plain.flip(0)
    return (a * b).sum() / (a * a).sum()


def test_mixing_depends_on_seed_and_place_alone():
    mix = Mixer(Mixing(), 4, 3, UNIT)
    first = mix(batch(4, place=12))
    disturb()
    again = Mixer(Mixing(), 4, 3, UNIT)(batch(4, place=12))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = mix(batch(4, place=16)), Mixer(Mixing(), 4, 4, UNIT)(batch(4, place=12))
    assert not any(torch.equal(first[1], other[1]) for other in others)


def test_cross_entropy_of_soft_targets_is_timms():
    logits, targets = torch.randn(5, 7), torch.randn(5, 7).softmax(1)
    assert torch.allclose(torch.nn.functional.cross_entropy(logits, targets), SoftTargetCrossEntropy()(logits, targets), atol=1e-6)


def test_bytes_are_normalised_and_floats_are_already():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    done = as_input(images, (IMAGE_MEAN, IMAGE_STD))
    assert torch.allclose(done[0, :, 0, 1], (255 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD))
    assert as_input(done, (IMAGE_MEAN, IMAGE_STD)) is done


def test_flips_only_move_pixels():
    image = picture(6, 8)
    views = {flipped([image], ClassificationConfig(), np.random.default_rng(i))[0].tobytes() for i in range(200)}
    assert 8 < len(views) <= 24
    assert all(sum(v) == int(image.sum()) for v in views)


def test_maps_are_flipped_with_their_image():
    image = picture(6, 8)
    for i in range(20):
        moved, map_ = flipped([image, image.sum(2)], ClassificationConfig(), np.random.default_rng(i))
        assert np.array_equal(moved.sum(2), map_)
