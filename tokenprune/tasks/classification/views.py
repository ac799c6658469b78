"""Prepares images for a classifier through timm: the test's crop, training's variations, and the mixing of a batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, create_transform
from torch import Tensor

from tokenprune.tasks.batching import seeded
from tokenprune.tasks.classification.settings import Augmentation, ClassificationConfig, Mixing, View
from tokenprune.tasks.pixels import normalised

Batch = tuple[Tensor, ...]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation by channel, 0..255 scale
_MIXING = 1  # makes the draws of a batch differ from those of its first sample


def evaluation_view(view: View, side: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from an image (h,w,3) uint8 to the test's view of it, (side,side,3) uint8, not normalised yet."""
    transform = create_transform(side, crop_pct=view.crop_pct, crop_mode=view.crop_mode, interpolation=view.interpolation, normalize=False)
    return lambda image: _pixels(transform(Image.fromarray(image)))


def training_view(augment: Augmentation, view: View, side: int, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return the function from an image (h,w,3) uint8 and its place in the run to a variation, (side,side,3) float32, normalised."""
    transform = create_transform(
        side, is_training=True, scale=augment.area, ratio=augment.ratio, hflip=augment.flip, auto_augment=augment.policy,
        color_jitter=augment.color_jitter or None, interpolation=view.interpolation, mean=view.mean, std=view.std,
        re_prob=augment.erase, re_mode="pixel",
    )  # fmt: skip

    def vary(image: np.ndarray, place: int) -> np.ndarray:
        with seeded(seed, place):
            return _pixels(transform(Image.fromarray(image)))

    return vary


def flipped(views: list[np.ndarray], cfg: ClassificationConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Return an image (H,W,3) and its maps (H,W), flipped alike, and the image's channels permuted."""
    if cfg.flip and rng.random() < 0.5:
        views = [v[:, ::-1] for v in views]
    if cfg.vertical_flip and rng.random() < 0.5:
        views = [v[::-1] for v in views]
    if cfg.channels and rng.random() < 0.5:
        views = [views[0][..., rng.permutation(3)], *views[1:]]
    return views


def collate(samples: list[tuple[Any, ...]]) -> Batch:
    """Join samples (image (H,W,3), label, maps (H,W)) to images (B,3,H,W), labels (B,) and maps (B,H,W), in the images' own type."""
    images, labels, *maps = zip(*samples, strict=True)
    pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels), torch.tensor(labels), *(torch.from_numpy(np.stack(m)) for m in maps)


def mixer(mix: Mixing, classes: int, seed: int, statistics: Statistics) -> Callable[[list[tuple[Any, ...]]], Batch]:
    """Return the function that mixes samples (image, label, place) to a batch: normalised images (B,3,H,W) and targets (B,classes).

    The targets of an image sum to 1.
    """
    none = not (mix.mixup or mix.cutmix)  # timm smooths labels in the same step, and insists on something to mix
    mixup = Mixup(
        mix.mixup or float(none), mix.cutmix, prob=0.0 if none else mix.prob, switch_prob=mix.switch_prob,
        label_smoothing=mix.smoothing, num_classes=classes,
    )  # fmt: skip

    def make(samples: list[tuple[Any, ...]]) -> Batch:
        images, labels = collate([sample[:-1] for sample in samples])
        with seeded(seed, samples[0][-1], _MIXING):
            return mixup(as_input(images, statistics), labels)

    return make


def as_input(images: Tensor, statistics: Statistics) -> Tensor:
    """Return images (B,3,H,W) as the model takes them: bytes are normalised here, floats already are."""
    return images if images.is_floating_point() else normalised(images, *statistics)


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
