"""Measures unmodified timm models of any kind like the classifiers that are pruned, for comparison in tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import timm
from torch import nn

from tokenprune.errors import InvalidConfig
from tokenprune.measure.speed import seconds_alone
from tokenprune.measure.throughput import over_batches
from tokenprune.measure.timm_macs import NOTE, Counted, counted
from tokenprune.registry import register
from tokenprune.tasks.base import device_of
from tokenprune.tasks.classification.task import ClassificationTask
from tokenprune.tasks.pictures import Picture
from tokenprune.utils.console import say_if
from tokenprune.utils.settings import read_settings

_GIGA = 1e9


@dataclass(frozen=True)
class TimmConfig:
    """Sets the `backbone` group of task=timm.

    Args:
        name: see `VitConfig`.
        size: see `VitConfig`.
        model: timm's name, with or without a tag of weights. Weights are never fetched; give them as init=FILE.
        img_size: Side of the images in pixels.
        options: Further arguments of timm.create_model.
        patch_size: Unused: backbone=timm has it for ViTs that are pruned, and an unmodified model has its own.
        drop_path: Unused, for the same reason.
    """

    name: str = ""
    size: str = ""
    model: str = ""
    img_size: int = 224
    options: dict[str, Any] = field(default_factory=dict)
    patch_size: int | None = None
    drop_path: float = 0.0


def read_timm(backbone: TimmConfig | Mapping[str, Any]) -> TimmConfig:
    """Read the `backbone` group.

    Raises:
        InvalidConfig: A key or value is wrong, or the group names no model that timm has.
    """
    if isinstance(backbone, TimmConfig):
        return backbone
    model = backbone.get("model")
    if model in (None, "???") or not timm.is_model(model):
        said = "not set" if model in (None, "???") else f"{model!r}, which is not a timm model"
        raise InvalidConfig(f"backbone.model is {said}; allowed with task=timm: backbone=timm backbone.model=NAME, see timm.list_models()")
    return read_settings(TimmConfig, backbone, "backbone")


def build_timm(cfg: TimmConfig | Mapping[str, Any], num_classes: int = 1000) -> nn.Module:
    """Build a timm model with random weights, for images of `img_size` if the model must know their size.

    Raises:
        InvalidConfig: There is no such model, or it does not take the options.
    """
    cfg = read_timm(cfg)
    options = {**cfg.options, "num_classes": num_classes}
    try:
        return timm.create_model(cfg.model, pretrained=False, img_size=cfg.img_size, **options)
    except TypeError:  # the network takes no img_size
        try:
            return timm.create_model(cfg.model, pretrained=False, **options)
        except TypeError as error:
            raise InvalidConfig(f"backbone.options is {cfg.options}, and {cfg.model} does not take it: {error}; leave it out") from error


def cost_of(cfg: TimmConfig | Mapping[str, Any], num_classes: int = 1000) -> Counted:
    """Return the MACs and parameters of a timm model, counted without memory for it.

    Raises:
        InvalidConfig: See `build_timm`; also if the model does not take the image size.
    """
    return _cost_of(json.dumps(asdict(read_timm(cfg)), sort_keys=True), num_classes)


@lru_cache(maxsize=64)  # a sweep asks about the same models at every scale and seed
def _cost_of(known: str, num_classes: int) -> Counted:
    cfg = TimmConfig(**json.loads(known))
    try:
        return counted(lambda: build_timm(cfg, num_classes), cfg.img_size)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InvalidConfig(
            f"backbone.img_size is {cfg.img_size}, which {cfg.model} does not take ({reason}); allowed: sizes that timm documents for it"
        ) from error


@register("task", "timm")
class TimmTask(ClassificationTask):
    """Measures a timm model of any kind, not pruned and not trained: accuracy of given weights, parameters, counted GMAC, speed."""

    name = "timm"
    gives = ()
    prunes = False

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check that the run asks for nothing that an unmodified model cannot do, and that the settings of `task` fit.

        Raises:
            InvalidConfig: They do not; the message names each problem.
        """
        ClassificationTask.check(cfg)
        selector, iterations, init = cfg["selector"].get("name"), cfg["training"].get("iterations"), cfg["init"]
        side, size = cfg["data"].get("side"), cfg["backbone"].get("img_size")
        bad = [
            (selector != "none", f"selector is {selector!r}; allowed: none. To prune a ViT: task=classification backbone=timm"),
            (iterations != 0, f"training.iterations is {iterations}; allowed: 0, the model is not trained"),
            (init in ("dense", "pretrained"), f"init is {init!r}; allowed: scratch (random weights), or a file of timm's weights"),
            (
                side not in (None, size),
                f"data.side is {side}, backbone.img_size {size}; allowed: the same, since an unmodified model has one",
            ),
        ]
        problems = [f"task=timm takes a model as timm has it: {text}" for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    @staticmethod
    def plan_in_words(cfg: Mapping[str, Any]) -> str:
        """Return the line of a dry run: the model, its size and its cost with 1000 classes.

        Raises:
            InvalidConfig: See `cost_of`.
        """
        backbone = read_timm(cfg["backbone"])
        cost = cost_of(backbone)
        costs = f"{cost.total / _GIGA:.4g} GMAC, {cost.linear / _GIGA:.4g} of them in layers, {cost.parameters / 1e6:.4g} M parameters"
        return f"dense: {backbone.model} as timm has it at {backbone.img_size} px; counted: {costs}"

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """Build the model, with a head for the classes of the data, on the CPU with random weights.

        Raises:
            InvalidConfig: See `build_timm`.
            DatasetError: The data cannot be read.
        """
        images = self._images(cfg)
        say_if(images.about_view)
        return build_timm(cfg["backbone"], len(images.classes))

    def begin(self, model: nn.Module) -> None:
        """Do nothing: nothing learns from the model."""

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return counted GMACs of the whole model and seconds an image. Values that need tokens and an encoder are left out."""
        known, macs = self._images(cfg), cost_of(cfg["backbone"], len(self._images(cfg).classes))
        device, count = device_of(model), known.recipe.speed_images
        images = [image for image, _ in known.first("val", count, 1, device)]
        times = seconds_alone(model.eval(), images, device)
        parts = {"linear": macs.linear, "attention": macs.attention, "total": macs.total}
        return {**{f"gmac_{name}": value / _GIGA for name, value in parts.items()}, "gmac_note": NOTE, **times}

    def throughput(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return images a second over batch sizes, without a speed-up: there is no dense model to compare with."""
        images, device = self._images(cfg), device_of(model)
        return over_batches((model.eval(),), lambda size, n: images.drawn(size, n).to(device), images.recipe.throughput, device)

    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> Iterator[Picture]:
        """Yield nothing: there are no tokens to show."""
        return iter(())
