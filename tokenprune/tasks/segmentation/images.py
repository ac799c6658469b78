"""Reads the labelled pictures of one segmentation run, for training and for tests.

What makes samples are functions of this module with their first arguments bound: workers that are not forked get them pickled.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.data import build_segmentation, require_same_classes
from tokenprune.data.base import NO_CLASS
from tokenprune.data.semantic import require_labels
from tokenprune.tasks.batching import BatchPlan, as_it_is, batches_from, in_order
from tokenprune.tasks.classification.views import Statistics
from tokenprune.tasks.preprocessing import about_view, shows_photographs
from tokenprune.tasks.segmentation.settings import read_segmentation
from tokenprune.tasks.segmentation.views import TrainingView, View, fitted, padded, view_of

Batch = tuple[Tensor, Tensor]
Seen = tuple[Tensor, list[tuple[int, int]], list[Tensor]]


class LabelledPixels:
    """Opens both splits of a run, each when it is first asked for.

    Args:
        config: A resolved run.

    Raises:
        InvalidConfig: Settings of `task` do not fit.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read the settings; no data are read."""
        self.config, self.settings = config, read_segmentation(config)
        self._splits: dict[str, Any] = {}

    def split(self, name: str) -> Any:
        """Return the data of "train" or "val".

        Raises:
            DatasetError: The data cannot be read, no pixel has a class, or the two splits have different classes.
        """
        if name not in self._splits:
            self._splits[name] = build_segmentation(self.config["data"], name)
            require_labels(self._splits[name], name)
            if len(self._splits) == 2:
                require_same_classes(self._splits["train"], self._splits["val"])
        return self._splits[name]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels."""
        return self.split("val").classes

    @property
    def notes(self) -> list[str]:
        """Return what the opened splits say of themselves."""
        return [note for data in self._splits.values() for note in getattr(data, "notes", ())]

    @property
    def about_view(self) -> str:
        """Return words for mean and std that say where they are from; "" for drawn pictures and without a model of timm."""
        given = {"mean": self.settings.mean, "std": self.settings.std}
        words = about_view(given, self.config.get("backbone", {})) if shows_photographs(self.config) else ""
        return f"pictures are seen with {words}" if words else ""

    @property
    def side(self) -> int:
        """Return the side in pixels of the square that the model sees."""
        return self.config["data"].get("side") or self.config["backbone"].get("img_size", 512)

    @property
    def statistics(self) -> Statistics:
        """Return the mean and standard deviation of each channel for normalisation, on the 0..255 scale."""
        return tuple(tuple(255 * v for v in values) for values in (self.settings.mean, self.settings.std))

    def training(self, start: int) -> Iterator[Batch]:
        """Yield batches without end from iteration `start` on, each a function of the seed and of its number.

        Returns:
            Images (B,3,side,side), normalised, and labels (B,side,side), -1 for pixels without one.
        """
        recipe, data = self.config["training"], self.split("train")
        seed = recipe.get("seed", 0)
        make = partial(varied, data, TrainingView(self.settings.augment, self.side, seed))
        plan, join = BatchPlan(len(data), recipe["batch_size"], seed), partial(padded, side=self.side, statistics=self.statistics)
        return batches_from(plan, make, join, start, recipe.get("workers", 0))

    def first(self, split: str, count: int, batch: int, device: torch.device, workers: int = 0) -> Iterator[Seen]:
        """Yield the first `count` pictures as a test sees them.

        Returns:
            Images (batch,3,side,side), normalised, padded, on the device; the size (h,w) of each without padding; the labels (H,W) of
            each at the picture's own size, on the CPU.
        """
        data = self.split(split)
        for views in in_order(min(count, len(data)), partial(whole, data), as_it_is, batch, workers):
            images, sizes = self._seen(views)
            yield images.to(device), sizes, [view.labels for view in views]

    def pictures(self, split: str, workers: int = 0) -> Iterator[View]:
        """Yield every picture of a split with its labels, at its own size."""
        data = self.split(split)
        return (views[0] for views in in_order(len(data), partial(whole, data), as_it_is, 1, workers))

    def drawn(self, size: int, number: int) -> Tensor:
        """Return batch `number` of `size` validation pictures drawn at random, with repetition: (size,3,side,side), normalised, padded."""
        data = self.split("val")
        chosen = np.random.default_rng((size, number)).integers(len(data), size=size)
        return self._seen([view_of(*data[int(i)]) for i in chosen])[0]

    def shown(self, number: int) -> tuple[View, Tensor]:
        """Return a validation picture and its labels as a test sees them, without padding, and the picture as input (1,3,side,side)."""
        return self._alone(view_of(*self.split("val")[number]))

    def view_of(self, image: np.ndarray) -> tuple[View, Tensor]:
        """Return the same of a picture of the user's own, (h,w,3) uint8, without labels."""
        return self._alone(view_of(image, np.full(image.shape[:2], NO_CLASS)))

    def _alone(self, view: View) -> tuple[View, Tensor]:
        view = fitted(view, self.side)
        return view, padded([view], self.side, self.statistics)[0]

    def _seen(self, views: list[View]) -> tuple[Tensor, list[tuple[int, int]]]:
        seen = [fitted(view, self.side) for view in views]
        return padded(seen, self.side, self.statistics)[0], [view.size for view in seen]


def whole(data: Any, i: int) -> View:
    """Return picture i of a split with its labels at its own size."""
    return view_of(*data[i])


def varied(data: Any, vary: TrainingView, index: int, place: int) -> View:
    """Return picture `index` and its labels as they are varied at a place in the run."""
    return vary(whole(data, index), place)
