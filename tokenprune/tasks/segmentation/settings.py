"""Defines the `task` group of a segmentation run: the view of pictures at test time, their variation in training, and the evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tokenprune.errors import InvalidConfig
from tokenprune.measure.throughput import ThroughputPlan
from tokenprune.tasks.preprocessing import IMAGENET, own_view, shows_photographs
from tokenprune.utils.settings import read_settings

STATISTICS = ("mean", "std")
POLICIES = ("light", "segmenter")
EVALUATIONS = ("one_shot", "released")
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PixelAugmentation:
    """Sets how training pictures and their labels are varied.

    Policy "light": the test's view, flipped with `flip` and `vertical_flip`, channels permuted with `channels`, each with probability 1/2.
    Policy "segmenter" (Cropr 4.2, after Segmenter), in this order: the shorter side is resized to data.side times a factor of `ratio`; a
    square of data.side is cut out at random, up to ten times anew if one class has more than `most` of its labelled pixels; a horizontal
    flip with `flip`; with `distort` brightness, contrast, saturation and hue, each with probability 1/2; padding to the square.

    Args:
        policy: One of POLICIES.
        flip: Whether to flip horizontally.
        vertical_flip: Whether "light" flips vertically.
        channels: Whether "light" permutes channels.
        ratio: Range of the resize factor of "segmenter".
        most: Greatest share of one class in a square of "segmenter".
        distort: Whether "segmenter" changes colours.
    """

    policy: str = "light"
    flip: bool = True
    vertical_flip: bool = False
    channels: bool = False
    ratio: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    distort: bool = True


@dataclass(frozen=True)
class SegmentationConfig:
    """Sets the `task` group of a segmentation run.

    Args:
        name: Name of the task.
        augment: Variation of training pictures.
        mean: Mean of each channel on the 0..1 scale, as the weights were trained: that of the model's own configuration if it is not given.
        std: Standard deviation of each channel on the 0..1 scale, likewise.
        evaluation: `one_shot` for the whole picture at once, its longer side resized to data.side (Cropr section 4.2); `released` for
            sliding windows of data.side, whose logits are averaged, as Segmenter's authors judge their files. Costs are always those of one
            input of data.side.
        batch_size: Pictures or windows in a forward pass of the evaluation.
        bootstrap: Resamples of the standard error.
        cost_images: Pictures over which MACs and kept shares are averaged.
        speed_images: Pictures whose times give the median; 0 for no timing.
        throughput: Plan of the measurement of images a second, for runs that ask for it.
    """

    name: str = "segmentation"
    augment: PixelAugmentation = field(default_factory=PixelAugmentation)
    mean: _Triple = IMAGENET_DEFAULT_MEAN
    std: _Triple = IMAGENET_DEFAULT_STD
    evaluation: str = "one_shot"
    batch_size: int = 16
    bootstrap: int = 100
    cost_images: int = 16
    speed_images: int = 20
    throughput: ThroughputPlan = field(default_factory=ThroughputPlan)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `task` group of a run in which photographs have the mean and std of the model's own configuration, unless they are given.

    What equals ImageNet's, the default, is left out.
    """
    own = own_view(config.get("backbone", {})) if shows_photographs(config) else {}
    task = {name: value for name, value in config["task"].items() if name not in STATISTICS or value is not None}
    return {**{name: own[name] for name in STATISTICS if own and own[name] != IMAGENET[name]}, **task}


def read_segmentation(config: Mapping[str, Any]) -> SegmentationConfig:
    """Read the `task` group of a run.

    Raises:
        InvalidConfig: A setting is unknown, has a wrong type or is out of range. The message names all of them.
    """
    cfg = read_settings(SegmentationConfig, completed(config), "task")
    low, high = cfg.augment.ratio
    bad = [
        (cfg.augment.policy not in POLICIES, f"task.augment.policy is {cfg.augment.policy!r}, allowed are {', '.join(POLICIES)}"),
        (cfg.evaluation not in EVALUATIONS, f"task.evaluation is {cfg.evaluation!r}, allowed are {', '.join(EVALUATIONS)}"),
        (not 0 < low <= high, f"task.augment.ratio is {cfg.augment.ratio}, allowed are two values 0 < a <= b"),
        (not 0 < cfg.augment.most <= 1, f"task.augment.most is {cfg.augment.most}, allowed are 0 < most <= 1, a share of pixels"),
        (min(cfg.std) <= 0, f"task.std is {cfg.std}, allowed are values above 0, on the 0..1 scale"),
        (max(*cfg.mean, *cfg.std) > 1, f"task.mean, std are {cfg.mean}, {cfg.std}, allowed is the 0..1 scale: divide by 255"),
        (cfg.batch_size < 1, f"task.batch_size is {cfg.batch_size}, allowed are 1 and more"),
        (cfg.bootstrap < 2, f"task.bootstrap is {cfg.bootstrap}, allowed are 2 and more"),
        (min(cfg.cost_images, cfg.speed_images) < 0, "task.cost_images and task.speed_images are 0 or more"),
    ]
    problems = [text for wrong, text in bad if wrong]
    if problems:
        raise InvalidConfig(problems)
    return cfg
