"""Reads the labelled images of one classification run, for training and for tests.

What makes samples are functions of this module with their first arguments bound: workers that are not forked get them pickled.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.data import build_classification, require_same_classes
from tokenprune.tasks.batching import BatchPlan, as_it_is, batches_from, in_order
from tokenprune.tasks.classification.settings import ClassificationConfig, View, read_recipe
from tokenprune.tasks.classification.views import Batch, EvaluationView, Mixer, Statistics, TrainingView, as_input, collate, flipped
from tokenprune.tasks.pixels import IMAGE_MEAN, IMAGE_STD
from tokenprune.tasks.preprocessing import about_view, completed_view, shows_photographs


class LabelledImages:
    """Opens both splits of a run, each when it is first asked for.

    Args:
        config: A resolved run.

    Raises:
        InvalidConfig: Settings of `task` do not fit.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read the settings; no data are read."""
        self.config, self.recipe = config, read_recipe(config)
        self._splits: dict[str, Any] = {}

    def split(self, name: str) -> Any:
        """Return the data of "train" or "val".

        Raises:
            DatasetError: The data cannot be read, or the two splits have different classes.
        """
        if name not in self._splits:
            self._splits[name] = build_classification(self.config["data"], name)
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
        """Return words for the view of photographs that say where its values are from; "" without a model of timm that has its own."""
        given = completed_view(self.config) if shows_photographs(self.config) else None
        words = "" if given is None else about_view(given, self.config.get("backbone", {}))
        return f"images are seen with {words}" if words else ""

    @property
    def statistics(self) -> Statistics:
        """Return the mean and standard deviation of each channel for normalisation, on the 0..255 scale."""
        view = self.recipe.view
        return (IMAGE_MEAN, IMAGE_STD) if view is None else tuple(tuple(255 * v for v in values) for values in (view.mean, view.std))

    def training(self, start: int) -> Iterator[Batch]:
        """Yield batches without end from iteration `start` on, each a function of the seed and of its number.

        Returns:
            Images (B,3,H,W), uint8, or float and already normalised if they are augmented or mixed; labels (B,) or, mixed, targets
                (B,classes);
            with token labels, maps (B,H,W).
        """
        settings, recipe = self.config["training"], self.recipe
        data, seed = self.split("train"), settings.get("seed", 0)
        plan = BatchPlan(len(data), settings["batch_size"], seed, repeats=1 if recipe.augment is None else recipe.augment.repeats)
        make, join = self._sample(data, seed), collate
        if recipe.mix is not None:
            make, join = partial(with_place, make), Mixer(recipe.mix, len(data.classes), seed, self.statistics)
        return batches_from(plan, make, join, start, settings.get("workers", 0))

    def first(self, split: str, count: int, batch: int, device: torch.device, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first `count` samples as a test sees them.

        Returns:
            Images (batch,3,H,W), normalised and on the device; labels (batch,) on the CPU.
        """
        data = self.split(split)
        for images, labels in in_order(min(count, len(data)), partial(seen, data, self._look(data)), collate, batch, workers):
            yield as_input(images.to(device), self.statistics), labels

    def drawn(self, size: int, number: int) -> Tensor:
        """Return batch `number` of `size` validation images as a test sees them, normalised, (size,3,H,W).

        The images are drawn at random, with repetition.
        """
        data = self.split("val")
        look, chosen = self._look(data), np.random.default_rng((size, number)).integers(len(data), size=size)
        return as_input(collate([(look(data[int(i)][0]), 0) for i in chosen])[0], self.statistics)

    def pixels(self, number: int) -> np.ndarray:
        """Return a validation image (H,W,3), uint8, at the model's input size."""
        data = self.split("val")
        return self._look(data)(data[number][0])

    def _sample(self, data: Any, seed: int) -> Callable[[int, int], tuple[Any, ...]]:
        recipe = self.recipe
        if recipe.augment is not None:
            return partial(varied, data, TrainingView(recipe.augment, recipe.view or View(), self.side, seed))
        return partial(drawn_flips, data, self._look(data), recipe, seed)

    def _look(self, data: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Return the test's transform of an image: the identity if all images have one size and no view is asked for."""
        view = self.recipe.view or (None if hasattr(data, "side") else View())
        return as_it_is if view is None else EvaluationView(view, self.side)

    @property
    def side(self) -> int:
        """Return the side in pixels of the square that the model sees."""
        return self.config["data"].get("side") or self.config["backbone"].get("img_size", 224)


def seen(data: Any, look: Callable[[np.ndarray], np.ndarray], i: int) -> tuple[Any, ...]:
    """Return sample i of a split as a test sees it: image and label."""
    image, label = data[i]
    return look(image), label


def varied(data: Any, vary: TrainingView, index: int, place: int) -> tuple[Any, ...]:
    """Return sample `index` as timm's transforms vary it at a place in the run: image and label."""
    image, label = data[index]
    return vary(image, place), label


def drawn_flips(
    data: Any, look: Callable[[np.ndarray], np.ndarray], recipe: ClassificationConfig, seed: int, index: int, place: int
) -> tuple[Any, ...]:
    """Return sample `index` with the flips and permutations of channels of a place in the run: image, label and, with token labels, map."""
    image, label, *maps = data.with_map(index) if recipe.token_labels else data[index]
    views = flipped([look(image), *maps], recipe, np.random.default_rng((seed, place)))
    return views[0], label, *views[1:]


def with_place(make: Callable[[int, int], tuple[Any, ...]], index: int, place: int) -> tuple[Any, ...]:
    """Return sample `index` with its place in the run."""
    return (*make(index, place), place)
