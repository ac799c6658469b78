"""Opens data sets by name: the embedded `shapes`, COCO roots, image folders, pictures with label maps, and pictures without labels."""

import difflib
from collections.abc import Mapping
from typing import Any

from tokenprune.data.base import DetectionData, Instances, Sample, require_same_classes
from tokenprune.errors import DatasetError, UnknownPlugin

__all__ = ["DetectionData", "Instances", "Sample", "build_classification", "build_detection", "build_segmentation", "require_same_classes"]

_SPLITS = ("train", "val")


def build_detection(cfg: Mapping[str, Any], split: str) -> DetectionData:
    """Open the detection data of `cfg`.

    Args:
        cfg: The `data` group of the configuration.
        split: "train" or "val".

    Raises:
        UnknownPlugin: The name is no data set for this task.
        DatasetError: A field or the root is missing, or the data are malformed.
    """
    name = _known(cfg, split, ("shapes", "coco", "unlabelled"))
    if name == "shapes":
        from tokenprune.data.shapes.shapes import ShapesDetection

        return ShapesDetection(_field(cfg, f"{split}_size"), _field(cfg, "side"), _field(cfg, "seed"), split)
    if name == "unlabelled":
        from tokenprune.data.unlabelled import Unlabelled

        sides = (_field(cfg, "short_side"), _field(cfg, "long_side"))
        return Unlabelled(_field(cfg, f"{split}_size"), sides, _field(cfg, "classes"), _field(cfg, "seed"))
    from tokenprune.data.coco import CocoDetection

    root = _field(cfg, "root", "set data.root=DIR, a folder with annotations/instances_*.json and the image folders")
    directory = _get(cfg, f"{split}_split") or f"{split}2017"
    return CocoDetection(root, directory, _get(cfg, f"max_{split}"), _get(cfg, "annotations"))


def build_classification(cfg: Mapping[str, Any], split: str) -> Any:
    """Open the classification data of `cfg`: item i is (image (H,W,3) uint8 RGB, label), and `classes` names the labels.

    Images of `shapes` have one size, those of image folders any. The first n of either are a sample of all classes.

    Args:
        cfg: The `data` group of the configuration.
        split: "train" or "val".

    Raises:
        UnknownPlugin: The name is no data set with image classes.
        DatasetError: A field or the root is missing, or the data are malformed.
    """
    if _known(cfg, split, ("shapes", "imagefolder")) == "shapes":
        from tokenprune.data.shapes.shapes import ShapesClassification

        sizes = (_field(cfg, f"{split}_size"), _field(cfg, "side"), _field(cfg, "seed"))
        return ShapesClassification(*sizes, split, textured=bool(_get(cfg, "textured")))
    from tokenprune.data.imagefolder import ImageFolder

    root = _field(cfg, "root", "set data.root=DIR, a folder with train and val, each a folder, zip or tar of class folders")
    return ImageFolder(root, _get(cfg, f"{split}_split") or split, _get(cfg, f"max_{split}"))


def build_segmentation(cfg: Mapping[str, Any], split: str) -> Any:
    """Open the segmentation data of `cfg`: item i is (image (H,W,3) uint8 RGB, labels (H,W) int64), and `classes` names the labels.

    A label of -1 is none. Pictures of `shapes` have one size, and class 0 is their background; those of folders have any size.

    Args:
        cfg: The `data` group of the configuration.
        split: "train" or "val".

    Raises:
        UnknownPlugin: The name is no data set with labels of pixels.
        DatasetError: A field or the root is missing, or the data are malformed.
    """
    if _known(cfg, split, ("shapes", "semantic")) == "shapes":
        from tokenprune.data.semantic import ShapesSemantic

        sizes = (_field(cfg, f"{split}_size"), _field(cfg, "side"), _field(cfg, "seed"))
        return ShapesSemantic(*sizes, split, textured=bool(_get(cfg, "textured")))
    from tokenprune.data.semantic import open_folders
    from tokenprune.utils.settings import plain

    _field(cfg, "root", "set data.root=DIR, a folder with a folder of images and a folder of label images")
    return open_folders(plain(cfg), split)


def _known(cfg: Mapping[str, Any], split: str, names: tuple[str, ...]) -> str:
    name = _get(cfg, "name")
    if split not in _SPLITS:
        raise DatasetError(f"data: split is {split!r}, allowed are 'train' and 'val'")
    if name not in names:
        close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]!r}?" if close else ": set data=NAME"
        raise UnknownPlugin(f"unknown data set {name!r} for this task, allowed are {', '.join(names)}{hint}")
    return name


def _get(cfg: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field, or None if it is absent or still the '???' of a mandatory configuration value."""
    value = cfg.get(field, None)  # OmegaConf gives the default for '???', where reading cfg[field] would raise
    return None if value == "???" else value


def _field(cfg: Mapping[str, Any], field: str, remedy: str = "") -> Any:
    value = _get(cfg, field)
    if value is None:
        raise DatasetError(f"data set {_get(cfg, 'name')!r}: {field} is not given: {remedy or f'set data.{field}'}")
    return value
