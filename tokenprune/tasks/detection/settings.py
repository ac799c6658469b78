"""Defines the settings of a detector, its pictures and its evaluation; readable without Detectron2. The defaults are the demo's values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenprune.errors import InvalidConfig
from tokenprune.measure.speed import DTYPES
from tokenprune.tasks.detection.conventions import ViewConfig, resolved, view_problems
from tokenprune.tasks.paper_size import PaperSize
from tokenprune.utils.settings import read_settings

POLICIES = ("light", "detr", "lsj")


@dataclass(frozen=True)
class PyramidConfig:
    """Sets the levels that the heads read (backbones/features.py).

    Args:
        scales: Some of {4, 2, 1, 0.5}.
        channels: Channels of every level.
        top_level: Whether to add an extra coarse level.
    """

    scales: tuple[float, ...] = (2.0,)
    channels: int = 64
    top_level: bool = False


@dataclass(frozen=True)
class HeadsConfig:
    """Sets the RPN, the box head and the mask head.

    Sizes are in input pixels. Pairs are (training, test) for topk and (background, object) for IoU.

    Args:
        anchor_sizes: Anchor sizes for each pyramid level, or one entry for all.
        anchor_ratios: Aspect ratios of the anchors.
        anchor_offset: Offset of the first anchor's centre, as a share of the stride.
        rpn_convs: Convolutions of the RPN's head.
        rpn_ious: IoU below which an anchor is background, and from which it is an object.
        rpn_samples: Anchors of an image that the RPN trains on.
        rpn_positive: Share of objects among these anchors.
        rpn_nms: IoU of the RPN's NMS.
        pre_nms: Proposals before NMS.
        post_nms: Proposals after NMS.
        roi_samples: Proposals of an image that the heads train on.
        roi_positive: Share of objects among these proposals.
        roi_iou: IoU from which a proposal is an object.
        sampling: RoIAlign points a bin; 0 adapts.
        box_pool: Side of the box head's input.
        box_convs: Convolutions of the box head.
        box_fc: Widths of the box head's linear layers, which follow its convolutions.
        mask_pool: Side of the mask head's input.
        mask_convs: Convolutions of the mask head.
        mask_dim: Channels of the mask head.
        norm: "" or "LN" (channel norm after the heads' convolutions).
        agnostic_boxes: Whether all classes share one box regression.
        agnostic_masks: Whether all classes share one mask.
        score: Least score of a result.
        nms: IoU of the NMS.
        detections: Most results of an image.
        cascade_ious: IoU of the three stages of Cascade R-CNN, whose boxes are always class-agnostic.
        soft_nms: IoU from which linear soft-NMS lowers a score, in place of `nms`; null for none.
        mask_scoring: Whether a result's score is multiplied by the confidence of its mask, which changes the box AP, too.
    """

    anchor_sizes: tuple[tuple[float, ...], ...] = ((14.0, 24.0, 40.0, 64.0, 96.0),)
    anchor_ratios: tuple[float, ...] = (1.0,)
    anchor_offset: float = 0.5
    rpn_convs: int = 1
    rpn_ious: tuple[float, float] = (0.3, 0.7)
    rpn_samples: int = 96
    rpn_positive: float = 0.5
    rpn_nms: float = 0.7
    pre_nms: tuple[int, int] = (400, 200)
    post_nms: tuple[int, int] = (100, 40)
    roi_samples: int = 32
    roi_positive: float = 0.5
    roi_iou: float = 0.5
    sampling: int = 2
    box_pool: int = 7
    box_convs: int = 0
    box_fc: tuple[int, ...] = (256, 256)
    mask_pool: int = 14
    mask_convs: int = 2
    mask_dim: int = 64
    norm: str = ""
    agnostic_boxes: bool = True
    agnostic_masks: bool = True
    score: float = 0.02
    nms: float = 0.5
    detections: int = 20
    cascade_ious: tuple[float, float, float] = (0.5, 0.6, 0.7)
    soft_nms: float | None = None
    mask_scoring: bool = False


@dataclass(frozen=True)
class AugmentConfig:
    """Sets how training pictures are varied. Test pictures are only resized to data.short_side / long_side, if the data set sets them.

    Policy "light": flips, transposes and channel permutations at the test size. Policy "detr": a horizontal flip; then half of the pictures
    are resized to a short side of `sides`, and the others are resized to `crop_sides`, cropped to a range of `crop_range` and resized to
    `sides`. Policy "lsj" (large-scale jitter, ViTDet): a horizontal flip; then the picture is resized to fit a square of `final_crop` times
    a factor drawn from `scale_range`, and cropped to the square. Smaller pictures stay small.

    Args:
        policy: One of POLICIES.
        flip: Whether to flip horizontally.
        vertical_flip: Whether "light" flips vertically.
        transpose: Whether "light" transposes.
        channels: Whether "light" permutes channels.
        sides: Short sides that "detr" draws from, in pixels.
        crop_sides: Short sides before the crop of "detr", in pixels.
        crop_range: Range of the crop's sides of "detr", in pixels.
        long_side: Greatest long side of "detr", in pixels.
        final_crop: Pixels; a picture with a longer side is cropped to it at random in the end, even if no object is left.
        scale_range: Range of the factor of "lsj".
    """

    policy: str = "light"
    flip: bool = True
    vertical_flip: bool = True
    transpose: bool = True
    channels: bool = True
    sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    crop_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    long_side: int = 1333
    final_crop: int | None = None
    scale_range: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True)
class EvaluateConfig:
    """Sets how a detector is evaluated.

    Args:
        max_detections: COCOeval's detections a picture.
        limits: Limits of small | medium | large, as square roots of areas in pixels.
        bootstrap: Resamples of the standard error.
        batch_size: Pictures in a forward pass.
        cost_images: Pictures over which MACs and kept shares are averaged.
        speed_images: Pictures whose times give the median; 0 for no timing.
        speed_warmup: Passes over the first picture that do not count.
        speed_repeats: Passes over each picture that count.
        speed_dtype: float32, bfloat16 or float16.
        speed_busy: Whether the box head finds as many objects as it may while the whole is timed. Untrained heads find none, and the mask
            head would have nothing to do.
        paper_size: The size of a paper that the row's encoder is timed at, too, with random weights; null for none.
    """

    max_detections: int = 100
    limits: tuple[float, float] = (32.0, 96.0)
    bootstrap: int = 50
    batch_size: int = 4
    cost_images: int = 64
    speed_images: int = 20
    speed_warmup: int = 1
    speed_repeats: int = 1
    speed_dtype: str = "float32"
    speed_busy: bool = False
    paper_size: PaperSize | None = None


@dataclass(frozen=True)
class DetectionConfig:
    """Sets the `task` group of a detection run.

    Args:
        name: Name of the task.
        detector: `mask` (Mask R-CNN) or `cascade` (Cascade Mask R-CNN).
        pyramid: The levels.
        heads: The RPN and the heads.
        augment: Variation of training pictures.
        evaluate: The evaluation.
        evaluation: `own`, or `released` for the conventions by which the authors of SViT and ViT-Adapter judged their detectors
            (mmdetection's, gates drawn by Gumbel noise, half precision on a GPU).
        view: Single conventions, where they differ from what `evaluation` says.
    """

    name: str = "detection"
    detector: str = "mask"
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    evaluation: str = "own"
    view: ViewConfig = field(default_factory=ViewConfig)

    @property
    def conventions(self) -> ViewConfig:
        """Return the conventions of the evaluation, each with its value."""
        return resolved(self.view, self.evaluation)


def read_task(values: Mapping[str, Any]) -> DetectionConfig:
    """Read the `task` group.

    Raises:
        InvalidConfig: A setting is unknown, has a wrong type, or does not fit the others. The message names all of them.
    """
    cfg = read_settings(DetectionConfig, values, "task")
    _check(cfg)
    return cfg


def _check(cfg: DetectionConfig) -> None:
    levels, sizes = len(cfg.pyramid.scales) + cfg.pyramid.top_level, len(cfg.heads.anchor_sizes)
    bad = [
        (cfg.detector not in ("mask", "cascade"), f"task.detector is {cfg.detector!r}, allowed are mask, cascade"),
        (cfg.augment.policy not in POLICIES, f"task.augment.policy is {cfg.augment.policy!r}, allowed are {', '.join(POLICIES)}"),
        (
            cfg.augment.policy == "lsj" and cfg.augment.final_crop is None,
            "task.augment.policy is 'lsj', which needs the square that it crops to: set task.augment.final_crop, in pixels",
        ),
        (
            not 0 < cfg.augment.scale_range[0] <= cfg.augment.scale_range[1],
            f"task.augment.scale_range is {cfg.augment.scale_range}, allowed are two factors 0 < a <= b",
        ),
        (
            cfg.heads.soft_nms is not None and not 0 <= cfg.heads.soft_nms <= 1,
            f"task.heads.soft_nms is {cfg.heads.soft_nms}, allowed are null and an IoU from 0 to 1",
        ),
        (cfg.heads.norm not in ("", "LN"), f"task.heads.norm is {cfg.heads.norm!r}, allowed are '' and LN"),
        (
            cfg.augment.final_crop is not None and cfg.augment.final_crop < 1,
            f"task.augment.final_crop is {cfg.augment.final_crop}, allowed are null and 1 and more (pixels)",
        ),
        (not cfg.heads.box_fc, "task.heads.box_fc is empty: the box head needs at least one linear layer"),
        (sizes not in (1, levels), f"task.heads.anchor_sizes has {sizes} entries for {levels} pyramid levels: give one, or one a level"),
        (
            cfg.evaluate.speed_dtype not in DTYPES,
            f"task.evaluate.speed_dtype is {cfg.evaluate.speed_dtype!r}, allowed are {', '.join(DTYPES)}",
        ),
        (
            min(cfg.evaluate.speed_repeats, cfg.evaluate.speed_warmup + 1) < 1,
            f"task.evaluate: speed_repeats is {cfg.evaluate.speed_repeats}, allowed are 1 and more; speed_warmup is"
            f" {cfg.evaluate.speed_warmup}, allowed are 0 and more",
        ),
        (cfg.evaluate.batch_size < 1, f"task.evaluate.batch_size is {cfg.evaluate.batch_size}, allowed are 1 and more"),
    ]
    problems = [text for wrong, text in bad if wrong]
    problems += view_problems(cfg.view, cfg.evaluation, cfg.detector, cfg.heads.soft_nms)
    if problems:
        raise InvalidConfig(problems)
