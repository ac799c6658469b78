"""Defines the records of every detection data set: plain numpy arrays, so that the data depend on no framework."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tokenprune.errors import DatasetError

NO_CLASS = -1  # label of a pixel without a class, equal to `engine.loss.IGNORED`


@dataclass(frozen=True)
class Instances:
    """Holds the n annotated objects of one image; n may be 0.

    Attributes:
        boxes: Boxes XYXY in absolute pixels, x2 and y2 exclusive, (n,4) float32.
        masks: Masks, (n,H,W) bool.
        labels: Labels, contiguous in 0..len(classes)-1, (n,) int64.
        crowd: Crowd regions, (n,) bool. COCO's matching ignores them, and they are never trained on.
    """

    boxes: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Sample:
    """Holds one image.

    Attributes:
        image: The image, (H,W,3) uint8 RGB.
        image_id: Its id in `coco_json()`.
        instances: Its objects.
    """

    image: np.ndarray
    image_id: int
    instances: Instances


class DetectionData(Protocol):
    """Is a finite, indexable detection data set whose ground truth is also available as a COCO dictionary."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...

    def coco_json(self) -> dict[str, Any]:
        """Return the COCO instances dictionary of exactly these images; contiguous label l is category `category_ids[l]`."""
        ...

    def aspect_ratios(self) -> list[float] | None:
        """Return the width / height of each image, for grouping into batches, or None if it is unknown without reading the images."""
        ...


def empty_instances(height: int, width: int) -> Instances:
    """Return the instances of an image without any object: every array has length 0 and the right rank."""
    return make_instances(np.zeros((0, 4)), np.zeros((0, height, width), dtype=bool), [], [])


def make_instances(boxes: Any, masks: np.ndarray, labels: Sequence[int], crowd: Sequence[bool]) -> Instances:
    """Return instances with the required dtypes from anything array-like: boxes (n,4), masks (n,H,W), labels (n,), crowd (n,)."""
    return Instances(
        boxes=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        masks=np.asarray(masks, dtype=bool),
        labels=np.asarray(labels, dtype=np.int64),
        crowd=np.asarray(crowd, dtype=bool),
    )


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Return tight boxes XYXY (n,4) float32, x2 and y2 exclusive, of masks (n,H,W) bool. Every mask must have a pixel."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for row, mask in zip(boxes, masks, strict=True):
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        row[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return boxes


def class_map(instances: Instances) -> np.ndarray:
    """Return a semantic map (H,W) int64: 0 is background, label + 1 elsewhere. A later instance wins, and crowds count as objects."""
    result = np.zeros(instances.masks.shape[1:], dtype=np.int64)
    for mask, label in zip(instances.masks, instances.labels, strict=True):
        result[mask] = label + 1
    return result


SAME_CATEGORIES = "the categories of train and val must have the same names, each once: give both files one list of categories"


def require_same_classes(train: Any, val: Any) -> None:
    """Check that two splits have the same class names, because a label must mean the same in both.

    Raises:
        DatasetError: They differ; the message names the classes that only one of them has.
    """
    if tuple(train.classes) == tuple(val.classes):
        return
    raise DatasetError(
        f"{class_difference(train.classes, val.classes)}; allowed are"
        " the same class folders in both, because their sorted names give the labels: complete one or remove from the other"
    )


def class_difference(train: Sequence[str], val: Sequence[str]) -> str:
    """Return the words for two lists of classes that differ: how many there are, and the names that only one of them has."""
    only = {"train": sorted(set(train) - set(val)), "val": sorted(set(val) - set(train))}
    listed = [f"only {split} has {', '.join(names[:5])}{', ...' * (len(names) > 5)}" for split, names in only.items() if names]
    twice = sorted({name for names in (train, val) for name in names if list(names).count(name) > 1})
    listed += [f"{', '.join(map(repr, twice[:5]))} occurs more than once"] if twice else []
    listed = listed or ["they have the same names in another order"]
    return f"the splits differ in their classes: {len(train)} in train, {len(val)} in val; {'; '.join(listed)}"
