"""Defines the `task` group of a classification run: the view of images at test time, and their variation and mixing in training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tokenprune.errors import InvalidConfig
from tokenprune.measure.speed import DTYPES, HALF
from tokenprune.measure.throughput import ThroughputPlan
from tokenprune.registry import get, names
from tokenprune.tasks.preprocessing import completed_view
from tokenprune.utils import distributed
from tokenprune.utils.settings import read_settings

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """Sets how a test sees images of any size: shorter side resized to data.side / crop_pct, cropped in the centre, normalised.

    Args:
        crop_pct: Share of the resized side that the crop keeps; 0.875 is 256 -> 224.
        interpolation: One of INTERPOLATIONS.
        mean: Mean of each channel on the 0..1 scale, as the weights were trained.
        std: Standard deviation of each channel on the 0..1 scale, as the weights were trained.
        crop_mode: One of CROP_MODES, as in timm: the centre, the whole image squeezed to the square, or the whole image with a border.
        dtype: Precision of the evaluation: `float32`; `float16` or `bfloat16` by autocast; `half` for float16 on a GPU and float32 on a
            CPU, as EViT, Evo-ViT and TokenReduction judge their files.
    """

    crop_pct: float = DEFAULT_CROP_PCT
    interpolation: str = "bicubic"
    mean: _Triple = IMAGENET_DEFAULT_MEAN
    std: _Triple = IMAGENET_DEFAULT_STD
    crop_mode: str = "center"
    dtype: str = "float32"


@dataclass(frozen=True)
class Augmentation:
    """Sets how training images are varied through timm's transforms; the defaults are DeiT's (Touvron et al. 2021, Table 9).

    Args:
        area: Range of the random crop's area, as a share of the image.
        ratio: Range of the random crop's width / height.
        flip: Probability of a horizontal flip.
        policy: RandAugment in timm's notation; null for none.
        color_jitter: Strength of colour jitter; as in timm it acts only without a policy.
        erase: Probability of random erasing.
        repeats: Copies of an image in a batch, each varied anew (Hoffer et al. 2020; DeiT 3); a batch then has fewer different images.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    policy: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.3
    erase: float = 0.25
    repeats: int = 1


@dataclass(frozen=True)
class Mixing:
    """Sets Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) through timm, and label smoothing; the defaults are DeiT's.

    Args:
        mixup: alpha of Mixup's Beta distribution; 0 for none.
        cutmix: alpha of CutMix's Beta distribution; 0 for none.
        prob: Probability that a batch is mixed.
        switch_prob: Probability of CutMix if both are on.
        smoothing: Strength of the label smoothing.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    smoothing: float = 0.1


@dataclass(frozen=True)
class ClassificationConfig:
    """Sets the `task` group of a classification run.

    Args:
        name: Name of the task.
        flip: Whether training images are flipped horizontally, with probability 1/2.
        vertical_flip: Whether they are flipped vertically, with probability 1/2.
        channels: Whether their channels are permuted, with probability 1/2.
        token_labels: Weight of a second cross-entropy on every patch token, whose label is the object's or "no class" (token labelling as
            in LV-ViT, Jiang et al. 2021). It needs a data set with class maps. The head then has one output more.
        batch_size: Images in a forward pass of the evaluation.
        draws: How often gates that are drawn at test time (selector.eval_mode=sample) are drawn anew; the numbers are the mean.
        cost_images: Images over which MACs and kept shares are averaged.
        speed_images: Images whose times give the median; 0 for no timing.
        view: The test's view. Values that are not given are the model's own as timm has them, else those of View(). None takes drawn
            pictures as they are.
        augment: Variation of training images, in place of flips and channels.
        mix: Mixing of training batches; None for plain labels.
        throughput: Plan of the measurement of images a second, for runs that ask for it.
    """

    name: str = "classification"
    flip: bool = True
    vertical_flip: bool = True
    channels: bool = True
    token_labels: float = 0.0
    batch_size: int = 50
    draws: int = 1
    cost_images: int = 64
    speed_images: int = 20
    view: View | None = None
    augment: Augmentation | None = None
    mix: Mixing | None = None
    throughput: ThroughputPlan = field(default_factory=ThroughputPlan)


def read_recipe(config: Mapping[str, Any]) -> ClassificationConfig:
    """Read the `task` group of a run.

    Raises:
        InvalidConfig: A setting is unknown, has a wrong type, or does not fit the others, the data or the batch. The message names all of
            them.
    """
    cfg = read_settings(ClassificationConfig, {**config["task"], "view": completed_view(config)}, "task")
    problems = [*_view(cfg.view), *_augmentation(cfg.augment), *_mixing(cfg.mix), *_together(cfg, config)]
    if problems:
        raise InvalidConfig(problems)
    return cfg


def _view(view: View | None) -> list[str]:
    if view is None:
        return []
    bad = [
        (not 0 < view.crop_pct <= 1, f"task.view.crop_pct is {view.crop_pct}, allowed are 0 < crop_pct <= 1, e.g. 0.875"),
        (view.interpolation not in INTERPOLATIONS,
         f"task.view.interpolation is {view.interpolation!r}, allowed are {', '.join(INTERPOLATIONS)}"),
        (view.crop_mode not in CROP_MODES, f"task.view.crop_mode is {view.crop_mode!r}, allowed are {', '.join(CROP_MODES)}"),
        (view.dtype not in (*DTYPES, HALF), f"task.view.dtype is {view.dtype!r}, allowed are {', '.join((*DTYPES, HALF))}"),
        (min(view.std) <= 0, f"task.view.std is {view.std}, allowed are values above 0, on the 0..1 scale"),
        (max(*view.mean, *view.std) > 1, f"task.view.mean, std are {view.mean}, {view.std}, allowed is the 0..1 scale: divide by 255"),
    ]  # fmt: skip
    return [text for wrong, text in bad if wrong]


def _augmentation(augment: Augmentation | None) -> list[str]:
    if augment is None:
        return []
    a, ranges = augment, {"area": (augment.area, 1.0), "ratio": (augment.ratio, float("inf"))}
    problems = [
        f"task.augment.{name} is {pair}, allowed are two values 0 < a <= b" + (f" <= {top:g}" if top == 1 else "")
        for name, (pair, top) in ranges.items()
        if not 0 < pair[0] <= pair[1] <= top
    ]
    problems += [f"task.augment.{n} is {getattr(a, n)}, allowed are 0 to 1" for n in ("flip", "erase") if not 0 <= getattr(a, n) <= 1]
    if a.color_jitter < 0:
        problems.append(f"task.augment.color_jitter is {a.color_jitter}, allowed are 0 and more")
    if a.repeats < 1:
        problems.append(f"task.augment.repeats is {a.repeats}, allowed are 1 (every image once an epoch) and more")
    return problems + _policy(a.policy)


def _policy(policy: str | None) -> list[str]:
    """Return timm's complaint about a policy, which it reads with assertions and look-ups of its own."""
    if policy is None:
        return []
    try:
        rand_augment_transform(policy, {})
    except (AssertionError, LookupError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        return [f"task.augment.policy is {policy!r}, which timm cannot read ({reason}); allowed are null and such as rand-m9-mstd0.5-inc1"]
    return []


def _mixing(mix: Mixing | None) -> list[str]:
    if mix is None:
        return []
    problems = [f"task.mix.{n} is {getattr(mix, n)}, allowed are 0 and more" for n in ("mixup", "cutmix") if getattr(mix, n) < 0]
    shares = ("prob", "switch_prob", "smoothing")
    return problems + [f"task.mix.{n} is {getattr(mix, n)}, allowed are 0 to 1" for n in shares if not 0 <= getattr(mix, n) <= 1]


def _together(cfg: ClassificationConfig, config: Mapping[str, Any]) -> list[str]:
    problems, parts = [], distributed.world()
    if cfg.draws < 1:
        problems.append(f"task.draws is {cfg.draws}, allowed are 1 and more")
    batch = config.get("training", {}).get("batch_size", 0)
    if cfg.mix is not None and batch % (2 * parts):
        problems.append(f"training.batch_size is {batch}, and task.mix pairs the images of each process: give a multiple of {2 * parts}")
    reasons = [name for name in ("view", "augment", "mix") if getattr(cfg, name) is not None]
    data = config.get("data", {}).get("name")
    if data in names("data") and not get("data", data).maps:
        reasons.append(f"data={data}, which has no class maps")
    if cfg.token_labels and reasons:
        problems.append(f"task.token_labels is {cfg.token_labels} together with {', '.join(reasons)}; allowed is 0 there, or data=shapes")
    return problems
