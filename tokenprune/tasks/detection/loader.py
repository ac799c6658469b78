"""Turns samples of a data set into Detectron2 inputs: resizing, augmentation, batches that depend on the iteration alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes
from detectron2.structures import Instances as D2Instances

from tokenprune.data.base import DetectionData, Instances, Sample
from tokenprune.data.opencv import fitted
from tokenprune.data.opencv import resize as resize_pixels
from tokenprune.tasks.batching import BatchPlan, batches_from
from tokenprune.tasks.detection.settings import AugmentConfig


@dataclass(frozen=True)
class Resize:
    """Sets the size of test pictures.

    Attributes:
        short: Short side in pixels; None keeps a picture's own size.
        long: Greatest long side in pixels.
        by: `pillow` or `opencv`, see `conventions.ViewConfig.resize`.
        sizes: `two_steps` or `one_factor`, see `conventions.ViewConfig.sizes`.
    """

    short: int | None = None
    long: int = 1333
    by: str = "pillow"
    sizes: str = "two_steps"


def train_batches(
    data: DetectionData, batch: int, seed: int, start: int, augment: AugmentConfig, resize: Resize, workers: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Yield training batches (lists of Detectron2 input dicts) from iteration `start` on, without end; pictures without objects stay in."""
    plan = BatchPlan(len(data), batch, seed, data.aspect_ratios())
    return batches_from(plan, partial(_drawn, data, augment, resize, seed), list, start, workers)


def _drawn(data: DetectionData, augment: AugmentConfig, resize: Resize, seed: int, index: int, place: int) -> dict[str, Any]:
    """Return sample `index` as it is at a place in the run. Its first arguments are bound: workers that are not forked get it pickled."""
    return train_input(data[index], augment, resize, (seed, place))


def train_input(sample: Sample, augment: AugmentConfig, resize: Resize, seed: tuple[int, int]) -> dict[str, Any]:
    """Return one augmented picture as {"image": (3,H,W) uint8, "instances": ground truth, "height", "width", "image_id"}.

    Crowds are left out.
    """
    with _seeded(seed):
        image, gt = sample.image, _without_crowds(sample.instances)
        if augment.policy == "detr":
            image, gt = _transformed(image, gt, _detr_policy(augment))
        elif augment.policy == "lsj":
            image, gt = _transformed(image, gt, _lsj_policy(augment))
        else:
            image, gt = _transformed(image, gt, _to_size(resize))
            image, gt = _light(image, gt, augment)
        if augment.final_crop is not None and max(image.shape[:2]) > augment.final_crop:
            image, gt = _transformed(image, gt, [T.RandomCrop("absolute", (augment.final_crop, augment.final_crop))])
    height, width = image.shape[:2]
    record = {"image": _tensor(image), "height": height, "width": width, "image_id": sample.image_id}
    return {**record, "instances": _d2_instances(gt, height, width)}


def test_input(sample: Sample, resize: Resize) -> dict[str, Any]:
    """Return one picture at test size. "height" and "width" are the original's, to which Detectron2 scales its results back."""
    height, width = sample.image.shape[:2]
    image = sample.image
    for augmentation in _to_size(resize):
        image = augmentation.get_transform(image).apply_image(image)
    return {"image": _tensor(image), "height": height, "width": width, "image_id": sample.image_id}


def resized(sample: Sample, resize: Resize) -> Instances:
    """Return the annotated objects of a picture at test size, without crowds."""
    return _transformed(sample.image, _without_crowds(sample.instances), _to_size(resize))[1]


def _to_size(resize: Resize) -> list[T.Augmentation]:
    return [] if resize.short is None else [_ToSize(resize)]


class _ToSize(T.ResizeShortestEdge):
    """Resizes a picture to a short side, by the conventions of a `Resize`."""

    def __init__(self, resize: Resize) -> None:
        super().__init__(resize.short, resize.long)
        self.resize = resize

    def get_transform(self, image: np.ndarray) -> Any:
        height, width = image.shape[:2]
        after = super().get_transform(image)
        if self.resize.sizes == "one_factor":
            after = T.ResizeTransform(height, width, *fitted(height, width, self.resize.short, self.resize.long), after.interp)
        return after if self.resize.by == "pillow" else _OpenCV(height, width, after.new_h, after.new_w)


class _OpenCV(T.ResizeTransform):
    """Resizes pixels as OpenCV does; masks by the nearest pixel, as its base class."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        super().__init__(h, w, new_h, new_w)

    def apply_image(self, img: np.ndarray, interp: Any = None) -> np.ndarray:
        return resize_pixels(img, self.new_h, self.new_w) if interp is None else super().apply_image(img, interp)


def _detr_policy(cfg: AugmentConfig) -> list[T.Augmentation]:
    """Return one of DETR's two policies, drawn: resize, or resize, crop and resize.

    Detectron2's RandomApply cannot choose one of several.
    """
    flip = [T.RandomFlip()] if cfg.flip else []
    last = T.ResizeShortestEdge(list(cfg.sides), cfg.long_side, sample_style="choice")
    if np.random.rand() < 0.5:
        return [*flip, last]
    first = T.ResizeShortestEdge(list(cfg.crop_sides), cfg.long_side, sample_style="choice")
    return [*flip, first, T.RandomCrop("absolute_range", cfg.crop_range), last]


def _lsj_policy(cfg: AugmentConfig) -> list[T.Augmentation]:
    """Return ViTDet's large-scale jitter. The detector pads pictures smaller than the square, if it wants squares."""
    side = cfg.final_crop
    resize, crop = T.ResizeScale(*cfg.scale_range, side, side), T.FixedSizeCrop((side, side), pad=False)
    return [*([T.RandomFlip()] if cfg.flip else []), resize, crop]


def _transformed(image: np.ndarray, gt: Instances, augmentations: list[T.Augmentation]) -> tuple[np.ndarray, Instances]:
    """Apply Detectron2 augmentations. After a crop, boxes are taken from the remaining masks, and objects without any are dropped."""
    if not augmentations:
        return image, gt
    inputs = T.AugInput(image)
    transforms = T.AugmentationList(augmentations)(inputs)
    height, width = inputs.image.shape[:2]
    masks = [transforms.apply_segmentation(m.astype(np.uint8)) for m in gt.masks]
    masks = np.stack(masks).astype(bool) if masks else np.zeros((0, height, width), dtype=bool)
    boxes = transforms.apply_box(gt.boxes).reshape(-1, 4).clip(0, [width, height, width, height])
    if any(isinstance(a, (T.RandomCrop, T.FixedSizeCrop)) for a in augmentations):
        boxes = BitMasks(torch.from_numpy(masks)).get_bounding_boxes().tensor.numpy()
    seen = masks.any(axis=(1, 2)) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return inputs.image, Instances(boxes[seen].astype(np.float32), masks[seen], gt.labels[seen], gt.crowd[seen])


def _light(image: np.ndarray, gt: Instances, cfg: AugmentConfig) -> tuple[np.ndarray, Instances]:
    """Apply flips, transposes and channel permutations, which are exact on pixels, masks and boxes, and cost almost nothing."""
    masks, boxes = gt.masks, gt.boxes
    height, width = image.shape[:2]
    if cfg.flip and np.random.rand() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if cfg.vertical_flip and np.random.rand() < 0.5:
        image, masks = image[::-1], masks[:, ::-1]
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
    if cfg.transpose and np.random.rand() < 0.5:
        image, masks, boxes = image.transpose(1, 0, 2), masks.transpose(0, 2, 1), boxes[:, [1, 0, 3, 2]]
    if cfg.channels:
        image = image[..., np.random.permutation(3)]
    return image, Instances(boxes, masks, gt.labels, gt.crowd)


def _without_crowds(gt: Instances) -> Instances:
    return Instances(gt.boxes[~gt.crowd], gt.masks[~gt.crowd], gt.labels[~gt.crowd], gt.crowd[~gt.crowd])


def _d2_instances(gt: Instances, height: int, width: int) -> D2Instances:
    result = D2Instances((height, width))
    result.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(gt.boxes, dtype=np.float32)))
    result.gt_classes = torch.from_numpy(np.ascontiguousarray(gt.labels, dtype=np.int64))
    result.gt_masks = BitMasks(torch.from_numpy(np.ascontiguousarray(gt.masks)))
    return result


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@contextmanager
def _seeded(seed: tuple[int, int]) -> Iterator[None]:
    """Seed numpy's global generator for one picture, because Detectron2's augmentations draw from it, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
