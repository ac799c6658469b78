"""Reads any data set in COCO instances format: ROOT/SPLIT/*.jpg and ROOT/annotations/instances_SPLIT.json."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.data.base import SAME_CATEGORIES, Sample, class_difference, empty_instances, make_instances
from tokenprune.data.coco_check import checked_coco
from tokenprune.data.coco_masks import area_of, to_mask
from tokenprune.data.pixels import EXIF_ORIENTATION, upright
from tokenprune.errors import DatasetError

_LAYOUT = "a COCO root holds annotations/instances_SPLIT.json and SPLIT/ with the images"


class CocoDetection:
    """Reads the images that a COCO instances file lists; further files in the image folder are not part of the set.

    Labels are contiguous by ascending category id, or in the order that `relabel` gives. Crowd regions are kept with their flag. Images
    without annotations stay.

    Args:
        root: The root folder.
        split: Its image folder; "train" and "val" also find "train2017" and "val2017".
        max_images: Take only the first images by ascending image id; None for all.
        annotations: Another JSON file, relative to root.

    Raises:
        DatasetError: A folder, file or image is missing, or the annotations are malformed.
    """

    def __init__(
        self, root: str | os.PathLike[str], split: str = "val", max_images: int | None = None, annotations: str | None = None
    ) -> None:
        """Read and check the annotations; no image is read."""
        self._folder, self._file = locate(root, split, annotations)
        if max_images is not None and (type(max_images) is not int or max_images < 1):
            raise DatasetError(f"data set 'coco': max_images is {max_images!r}, allowed are integers >= 1 and null for all images")
        data = checked_coco(self._file)
        self._images = sorted(data["images"], key=lambda image: image["id"])[:max_images]
        _require_files(self._file, self._folder, self._images)
        self._annotations = _by_image(data["annotations"], self._images)
        self._header = {key: data[key] for key in ("info", "licenses") if key in data}
        self._categories = sorted(data["categories"], key=lambda category: category["id"])
        self._number(self._categories)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> Sample:
        """Return image i by ascending id, with boxes as annotated but clipped to the image.

        Raises:
            DatasetError: The image cannot be read.
        """
        record = self._images[i]
        height, width = record["height"], record["width"]
        image = _load(self._folder / record["file_name"], height, width)
        annotations = self._annotations[record["id"]]
        if not annotations:
            return Sample(image, record["id"], empty_instances(height, width))
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.clip(boxes, 0, [width, height, width, height])
        masks = np.stack([to_mask(a["segmentation"], height, width) for a in annotations])
        labels = [self._labels[a["category_id"]] for a in annotations]
        return Sample(image, record["id"], make_instances(boxes, masks, labels, [bool(a["iscrowd"]) for a in annotations]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def relabel(self, classes: Sequence[str]) -> None:
        """Number the labels in the order of `classes`, the same names in another order: a label means the same in both splits.

        Raises:
            DatasetError: The names differ, or one occurs twice, so that names do not tell the categories apart.
        """
        if self.classes == tuple(classes):
            return
        if sorted(self.classes) != sorted(classes) or len(set(classes)) < len(classes):
            raise DatasetError(f"{self._file}: {class_difference(classes, self.classes)}; {SAME_CATEGORIES}")
        by_name = {category["name"]: category for category in self._categories}
        self._number([by_name[name] for name in classes])

    def _number(self, categories: Sequence[dict[str, Any]]) -> None:
        self.classes = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._labels = {key: label for label, key in enumerate(self.category_ids)}

    def aspect_ratios(self) -> list[float]:
        """Return the width / height of each image, from the annotation file."""
        return [image["width"] / image["height"] for image in self._images]

    def coco_json(self) -> dict[str, Any]:
        """Return the annotations of exactly these images: average precision over a subset needs a ground truth cut to the subset."""
        annotations = [a for image in self._images for a in self._annotations[image["id"]]]
        return {**self._header, "images": self._images, "annotations": annotations, "categories": self._categories}


def locate(root: Any, split: str, annotations: str | None) -> tuple[Path, Path]:
    """Return the image folder and the annotation file of a split. The folder exists.

    Raises:
        DatasetError: There is no such folder.
    """
    if root is None or str(root) in ("", "???"):
        raise DatasetError(f"data set 'coco': root is not given: set data.root=DIR; {_LAYOUT}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder: set data.root=DIR; {_LAYOUT}")
    if split in ("train", "val") and not (folder / split).is_dir():
        split = f"{split}2017"
    if not (folder / split).is_dir():
        present = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) or "none"
        remedy = f"set data.train_split and data.val_split; {_LAYOUT}"
        raise DatasetError(f"{folder / split}: no such image folder; there are: {present}: {remedy}")
    return folder / split, folder / (annotations or f"annotations/instances_{split}.json")


def _require_files(file: Path, folder: Path, images: list[dict[str, Any]]) -> None:
    """Check that all listed images exist, by one directory listing a folder instead of one look-up an image."""
    present: dict[Path, set[str]] = {}
    missing = []
    for image in images:
        path = folder / image["file_name"]
        if path.parent not in present:
            present[path.parent] = {entry.name for entry in os.scandir(path.parent)} if path.parent.is_dir() else set()
        if path.name not in present[path.parent]:
            missing.append((image["id"], image["file_name"]))
    if missing:
        key, name = missing[0]
        count = f"{len(missing)} of {len(images)} images are not in {folder}"
        raise DatasetError(f"{file}: {count}, the first is file_name {name!r} (image id {key}): complete the folder or cut the list")


def _by_image(annotations: list[dict[str, Any]], images: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Return the annotations of the chosen images as COCOeval needs them: with an `area`, and no id 0, which means 'unmatched' there."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    spare = max((a["id"] for a in annotations), default=0) + 1
    result: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for a in annotations:
        if a["image_id"] in sizes:
            area = a["area"] if "area" in a else area_of(a["segmentation"], *sizes[a["image_id"]])
            result[a["image_id"]].append({**a, "area": area, "id": a["id"] or spare})
    return {key: result[key] for key in sizes}


def _load(path: Path, height: int, width: int) -> np.ndarray:
    """Return an image (height,width,3) uint8 RGB, whatever mode the file has, turned by its EXIF orientation as Detectron2 does."""
    try:
        with Image.open(path) as image:
            image.load()
            stored, tag = image.size, image.getexif().get(EXIF_ORIENTATION, 1)
            pixels = upright(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: the image cannot be read ({error}); is it truncated? Download it again") from error
    if pixels.shape[:2] == (height, width):
        return pixels
    got, said = f"{pixels.shape[1]}x{pixels.shape[0]}", f"its record says width x height = {width}x{height}"
    if stored == (width, height):
        raise DatasetError(
            f"{path}: the image is {got} once it is turned by its EXIF orientation {tag}, {said}: annotations belong to the turned image,"
            " as in Detectron2; if these belong to the pixels as stored, remove the EXIF tag from the file"
        )
    raise DatasetError(f"{path}: the image is {got}, {said}: use the files of this data set")
