"""Makes `shapes`, the embedded procedural data set: eight silhouettes on textured clutter, drawn on demand and never stored.

Every image is a function of (seed, split, index) alone. About 30 % of the area is foreground. This is enough that a keep rate of 0.7 at
three stages (34 % of the tokens left) has to drop parts of objects, which an easier set would not show.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenprune.data.base import Instances, Sample, boxes_of, make_instances
from tokenprune.data.shapes.geometry import SHAPES_CLASSES
from tokenprune.data.shapes.render import render
from tokenprune.errors import DatasetError

__all__ = ["SHAPES_CLASSES", "ShapesClassification", "ShapesDetection", "render"]

_SIDES = (48, 512)


class _Shapes:
    """Checks and holds the settings that both tasks share."""

    classes = SHAPES_CLASSES

    def __init__(self, size: int, side: int, seed: int, split: str) -> None:
        if split not in ("train", "val"):
            raise DatasetError(f"data set 'shapes': split is {split!r}, allowed are 'train' and 'val'")
        _require_int("size", size, 1, 10**9, "set data.train_size or data.val_size")
        _require_int("side", side, *_SIDES, "set data.side")
        _require_int("seed", seed, 0, 2**63 - 1, "set data.seed")
        self.size, self.side, self.seed, self.split = size, side, seed, split

    def __len__(self) -> int:
        return self.size

    def _checked(self, i: int) -> int:
        if not -self.size <= i < self.size:
            raise IndexError(f"index {i} of a shapes set of {self.size} images")  # iteration ends by this error
        return int(i) % self.size


def _require_int(field: str, value: Any, low: int, high: int, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DatasetError(f"data set 'shapes': {field} is {value!r}, allowed are integers from {low} to {high}: {remedy}")


class ShapesDetection(_Shapes):
    """Draws `size` images of side x side pixels for detection and instance segmentation; train and val never share an image.

    Args:
        size: Number of images.
        side: Side in pixels, 48..512.
        seed: Seed, 0 or more.
        split: "train" or "val".
        textured: see `render`.

    Raises:
        DatasetError: A value is out of range.
    """

    category_ids = tuple(range(1, len(SHAPES_CLASSES) + 1))

    def __init__(self, size: int, side: int, seed: int, split: str, textured: bool = False) -> None:
        """Check the settings."""
        super().__init__(size, side, seed, split)
        self.textured = textured
        self._coco: dict[str, Any] | None = None

    def __getitem__(self, i: int) -> Sample:
        """Return image i. The mask of an object is its visible part; hairlines in front are ignored. Boxes are tight around the masks."""
        i = self._checked(i)
        drawn = render(self.seed, i, self.side, "detection", self.split, self.textured)
        return Sample(drawn.image, i, _instances(drawn.ids, drawn.labels))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def aspect_ratios(self) -> list[float]:
        """Return width / height, which is 1 for each image."""
        return [1.0] * len(self)

    def coco_json(self) -> dict[str, Any]:
        """Return the ground truth as a COCO instances dictionary (compressed RLE as text), made at the first call and then kept."""
        if self._coco is None:
            annotations: list[dict[str, Any]] = []
            for sample in self:
                annotations += _annotations(sample, len(annotations))
            names = enumerate(SHAPES_CLASSES, start=1)
            self._coco = {
                "info": {"description": f"shapes: seed {self.seed}, split {self.split}, side {self.side}"},
                "licenses": [],
                "images": [{"id": i, "file_name": f"{i:06d}.png", "width": self.side, "height": self.side} for i in range(len(self))],
                "annotations": annotations,
                "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in names],
            }
        return self._coco


def _instances(ids: np.ndarray, labels: np.ndarray) -> Instances:
    masks = ids[None] == np.arange(1, len(labels) + 1, dtype=np.uint8)[:, None, None]
    return make_instances(boxes_of(masks), masks, labels, np.zeros(len(labels), dtype=bool))


def _annotations(sample: Sample, count: int) -> list[dict[str, Any]]:
    """Return the COCO annotations of one image, numbered from count + 1, because COCOeval takes annotation id 0 for 'unmatched'."""
    from pycocotools import mask as rle_tools

    result = []
    for k, (mask, label) in enumerate(zip(sample.instances.masks, sample.instances.labels.tolist(), strict=True), start=1):
        rle = rle_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
        x1, y1, x2, y2 = sample.instances.boxes[k - 1].tolist()
        result.append(
            {
                "id": count + k,
                "image_id": sample.image_id,
                "category_id": label + 1,
                "iscrowd": 0,
                "area": float(mask.sum()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
            }
        )
    return result


class ShapesClassification(_Shapes):
    """Draws `size` images with one main object in clutter; its class is the label.

    Args:
        size: see `ShapesDetection`.
        side: see `ShapesDetection`.
        seed: see `ShapesDetection`.
        split: see `ShapesDetection`.
        textured: see `render`.
    """

    def __init__(self, size: int, side: int, seed: int, split: str, textured: bool = False) -> None:
        super().__init__(size, side, seed, split)
        self.textured = textured

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Return image i (side,side,3) uint8 RGB and its label in 0..7."""
        image, label, _ = self.with_map(i)
        return image, label

    def with_map(self, i: int) -> tuple[np.ndarray, int, np.ndarray]:
        """Return image i, its label, and its class map (side,side) uint8: the label on the object, 8 (no class) elsewhere."""
        drawn = render(self.seed, self._checked(i), self.side, "classification", self.split, self.textured)
        label = int(drawn.labels[0])
        return drawn.image, label, np.where(drawn.ids > 0, label, len(SHAPES_CLASSES)).astype(np.uint8)
