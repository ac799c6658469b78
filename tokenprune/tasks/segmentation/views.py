"""Prepares pictures and their labels for a segmenter: the test's resize, training's variations, padding to a square."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from tokenprune.data.base import NO_CLASS
from tokenprune.tasks.batching import seeded
from tokenprune.tasks.classification.views import Statistics, flipped
from tokenprune.tasks.pixels import normalised
from tokenprune.tasks.segmentation.settings import PixelAugmentation

_TRIES = 10  # number of crops that are tried, as in the released recipe
_LONGEST = 4  # greatest long side of a resized picture, as a multiple of the short side that was drawn
# Shares of 255, 1, 1 and the circle of hues: the strengths in use since SSD (Liu et al., 2016).
_STRENGTHS = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}


class View(NamedTuple):
    """Holds a picture and its labels.

    Attributes:
        image: The picture, (3,h,w) uint8.
        labels: Its labels, (h,w) long; -1 for none.
    """

    image: Tensor
    labels: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Return (h,w) in pixels."""
        return tuple(self.labels.shape)


def view_of(image: np.ndarray, labels: np.ndarray) -> View:
    """Return a picture (h,w,3) and its labels (h,w) as tensors."""
    return View(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(np.ascontiguousarray(labels)))


def resized(view: View, size: Sequence[int]) -> View:
    """Return a view of (h,w) pixels: the picture resized bilinearly with antialiasing, its labels by nearest neighbour."""
    if view.size == tuple(size):
        return view
    image = TF.resize(view.image, list(size), antialias=True)
    return View(image, TF.resize(view.labels.unsqueeze(0), list(size), TF.InterpolationMode.NEAREST).squeeze(0))


def fitted(view: View, side: int) -> View:
    """Return the test's view: the longer side resized to `side` pixels ("1-shot", Cropr section 4.2)."""
    factor = side / max(view.size)
    return resized(view, [max(1, round(n * factor)) for n in view.size])


@dataclass(frozen=True)
class TrainingView:
    """Turns a picture and its place in the run into a variation of at most side x side pixels.

    Args:
        augment: The variation.
        side: Side in pixels.
        seed: Seed of the run.
    """

    augment: PixelAugmentation
    side: int
    seed: int

    def __call__(self, view: View, place: int) -> View:
        """Return the variation of a picture at a place in the run."""
        vary = _light if self.augment.policy == "light" else _segmenter
        with seeded(self.seed, place):
            return vary(view, self.augment, self.side, np.random.default_rng((self.seed, place)))


def padded(views: Sequence[View], side: int, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return images (B,3,side,side), normalised, and labels (B,side,side): zeros and -1 to the right of and below each picture."""
    images, labels = [], []
    for image, truth in views:
        margin = (0, side - image.shape[2], 0, side - image.shape[1])
        images.append(F.pad(normalised(image.unsqueeze(0), *statistics), margin)[0])
        labels.append(F.pad(truth, margin, value=NO_CLASS))
    return torch.stack(images), torch.stack(labels)


def _light(view: View, augment: PixelAugmentation, side: int, rng: np.random.Generator) -> View:
    image, labels = fitted(view, side)
    return view_of(*flipped([image.permute(1, 2, 0).numpy(), labels.numpy()], augment, rng))


def _segmenter(view: View, augment: PixelAugmentation, side: int, rng: np.random.Generator) -> View:
    scale = side * rng.uniform(*augment.ratio)
    factor = min(scale / min(view.size), _LONGEST * scale / max(view.size))
    image, labels = _cut(resized(view, [max(1, round(n * factor)) for n in view.size]), side, augment.most, rng)
    if augment.flip and rng.random() < 0.5:
        image, labels = image.flip(-1), labels.flip(-1)
    return View(_distortion()(image) if augment.distort else image, labels)


def _cut(view: View, side: int, most: float, rng: np.random.Generator) -> View:
    """Return a random part of at most side x side pixels, or the last one tried if one class has too much of each."""
    for _ in range(_TRIES):
        top, left = (int(rng.integers(max(n - side, 0) + 1)) for n in view.size)
        part = View(view.image[:, top : top + side, left : left + side], view.labels[top : top + side, left : left + side])
        counts = torch.bincount(part.labels[part.labels != NO_CLASS])
        if len(counts) and counts.max() <= most * counts.sum():
            break
    return part


def _distortion() -> v2.Transform:
    """Return the photometric distortion: each of the four with probability 1/2. Brightness is a factor here; SSD adds it."""
    return v2.Compose([v2.RandomApply([v2.ColorJitter(**{name: strength})], 0.5) for name, strength in _STRENGTHS.items()])
