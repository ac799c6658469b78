"""Prepares images for a classifier through timm: the test's crop, training's variations, and the mixing of a batch.

All are classes and not closures, because worker processes that are not forked get them pickled.
"""

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


class EvaluationView:
    """Turns an image (h,w,3) uint8 into the test's view of it, (side,side,3) uint8, not normalised yet.

    Args:
        view: The test's view.
        side: Side of the result in pixels.
    """

    def __init__(self, view: View, side: int) -> None:
        """Make timm's transform."""
        self.transform = create_transform(
            side, crop_pct=view.crop_pct, crop_mode=view.crop_mode, interpolation=view.interpolation, normalize=False
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the view of an image."""
        return _pixels(self.transform(Image.fromarray(image)))


class TrainingView:
    """Turns an image (h,w,3) uint8 and its place in the run into a variation, (side,side,3) float32, normalised.

    Args:
        augment: The variation.
        view: The test's view, which gives interpolation, mean and std.
        side: Side of the result in pixels.
        seed: Seed of the run.
    """

    def __init__(self, augment: Augmentation, view: View, side: int, seed: int) -> None:
        """Make timm's transform."""
        self.seed = seed
        self.transform = create_transform(
            side, is_training=True, scale=augment.area, ratio=augment.ratio, hflip=augment.flip, auto_augment=augment.policy,
            color_jitter=augment.color_jitter or None, interpolation=view.interpolation, mean=view.mean, std=view.std,
            re_prob=augment.erase, re_mode="pixel",
        )  # fmt: skip

    def __call__(self, image: np.ndarray, place: int) -> np.ndarray:
        """Return the variation of an image at a place in the run."""
        with seeded(self.seed, place):
            return _pixels(self.transform(Image.fromarray(image)))


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


class Mixer:
    """Mixes samples (image, label, place) to a batch: normalised images (B,3,H,W) and targets (B,classes) that sum to 1.

    Args:
        mix: The mixing.
        classes: Number of classes.
        seed: Seed of the run.
        statistics: Mean and standard deviation of each channel.
    """

    def __init__(self, mix: Mixing, classes: int, seed: int, statistics: Statistics) -> None:
        """Make timm's Mixup."""
        none = not (mix.mixup or mix.cutmix)  # timm smooths labels in the same step, and insists on something to mix
        self.seed, self.statistics = seed, statistics
        self.mixup = Mixup(
            mix.mixup or float(none), mix.cutmix, prob=0.0 if none else mix.prob, switch_prob=mix.switch_prob,
            label_smoothing=mix.smoothing, num_classes=classes,
        )  # fmt: skip

    def __call__(self, samples: list[tuple[Any, ...]]) -> Batch:
        """Return a mixed batch."""
        images, labels = collate([sample[:-1] for sample in samples])
        with seeded(self.seed, samples[0][-1], _MIXING):
            return self.mixup(as_input(images, self.statistics), labels)


def as_input(images: Tensor, statistics: Statistics) -> Tensor:
    """Return images (B,3,H,W) as the model takes them: bytes are normalised here, floats already are."""
    return images if images.is_floating_point() else normalised(images, *statistics)


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
