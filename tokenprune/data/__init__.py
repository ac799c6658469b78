"""Opens data sets by name: the embedded `shapes`, COCO roots, image folders, pictures with label maps, and pictures without labels."""

from collections.abc import Mapping
from typing import Any

from tokenprune.data.base import DetectionData, Instances, Sample, require_same_classes
from tokenprune.data.source import DataSource, data_source, open_data

__all__ = [
    "DataSource", "DetectionData", "Instances", "Sample", "build_classification", "build_detection", "build_segmentation", "data_source",
    "open_data", "require_same_classes",
]  # fmt: skip


def build_detection(cfg: Mapping[str, Any], split: str) -> DetectionData:
    """Open detection data: item i is a `Sample`; see `open_data`."""
    return open_data(cfg, "detection", split)


def build_classification(cfg: Mapping[str, Any], split: str) -> Any:
    """Open classification data: item i is (image (H,W,3) uint8 RGB, label); the first n items are a sample of all classes."""
    return open_data(cfg, "classification", split)


def build_segmentation(cfg: Mapping[str, Any], split: str) -> Any:
    """Open segmentation data: item i is (image (H,W,3) uint8 RGB, labels (H,W) int64, -1 for none); see `open_data`."""
    return open_data(cfg, "segmentation", split)
