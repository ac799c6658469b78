"""What can be set about a detector, its pictures and its evaluation; readable without Detectron2. Defaults are the demo's values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenprune.errors import InvalidConfig
from tokenprune.measure.speed import DTYPES
from tokenprune.utils.settings import read_settings

POLICIES = ("light", "detr", "lsj")


@dataclass(frozen=True)
class PyramidConfig:
    """The levels that the heads read (backbones/features.py): scales of {4, 2, 1, 0.5}, channels, an extra coarse level."""

    scales: tuple[float, ...] = (2.0,)
    channels: int = 64
    top_level: bool = False


@dataclass(frozen=True)
class HeadsConfig:
    """RPN, box head and mask head. Sizes in input pixels; pairs are (training, test) for topk and (background, object) for IoU.

    anchor_sizes: per pyramid level, or one entry for all. box_fc: widths of the box head's linear layers after `box_convs`
    convolutions. norm: "" or "LN" (channel norm after the heads' convolutions). sampling: RoIAlign points a bin, 0 adapts.
    cascade_ious: the three stages of Cascade R-CNN; its boxes are always class-agnostic. soft_nms: IoU from which linear soft-NMS lowers a
    score, in the place of `nms`; null for none. mask_scoring: whether a result's score is multiplied by how sure its mask is, which moves
    the box AP, too.
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
    """What training pictures go through. Test pictures are only resized to data.short_side / long_side where the data set sets them.

    policy "light": flips, transposes, channel permutations at the test size. policy "detr": horizontal flip, then half of the pictures
    resized to a short side of `sides`, the others resized to `crop_sides`, cropped to a range of `crop_range` and resized to `sides`.
    policy "lsj" (large-scale jitter, ViTDet): horizontal flip, resized to fit a square of `final_crop` times a factor drawn from
    `scale_range`, cropped to the square; smaller pictures stay as small.
    final_crop: pixels; a picture with a longer side is cropped to it at random in the end, also where no object is left.
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
    """How a detector is judged: COCOeval's detections a picture, the area limits of small | medium | large as square-root pixels.

    bootstrap: resamples of the standard error. batch_size: pictures a forward. cost_images: pictures over which MACs and kept shares
    are averaged. speed_images: pictures whose times give the median (0: no timing); speed_warmup, speed_repeats: passes over the first
    that do not count, and over each that do; speed_dtype: float32, bfloat16 or float16; speed_busy: for the time of the whole, let the
    box head find as many objects as it may, because untrained heads find none and the mask head would have nothing to do.
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


@dataclass(frozen=True)
class DetectionConfig:
    """The `task` group of a detection run."""

    name: str = "detection"
    detector: str = "mask"
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def read_task(values: Mapping[str, Any]) -> DetectionConfig:
    """Read the `task` group.

    Raises:
        InvalidConfig: unknown settings, wrong types and values that do not fit together, all at once.
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
    if problems:
        raise InvalidConfig(problems)
