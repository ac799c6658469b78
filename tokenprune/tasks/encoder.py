"""Builds the pruned encoder of a run, and computes the size of its grid."""

from collections.abc import Mapping
from typing import Any

from tokenprune.backbones.build import build_backbone
from tokenprune.backbones.pyramid import SCALES
from tokenprune.engine.arguments import explicit
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.engine.schedule import answered
from tokenprune.utils.settings import plain


def build_pruned(cfg: Mapping[str, Any], num_classes: int = 0, classes: int | None = None) -> PrunedViT:
    """Build the encoder of a run: the `backbone` group's model with the run's selector, treatment, schedule, cls, execution and losses.

    Args:
        cfg: The run.
        num_classes: Outputs of the model's own classification head.
        classes: Number of classes that auxiliary heads learn, if it differs.

    Raises:
        InvalidConfig: A value does not fit. This and the following are raised before any weight is loaded.
        UnknownPlugin: A name is unknown.
        InvalidSchedule: The schedule does not fit the model.
        IncompatiblePairing: The parts do not go together.
    """
    axes = ("selector", "treatment", "schedule", "cls", "execution", "losses")
    given = {name: _or_none(plain(cfg[name])) for name in axes if cfg.get(name) is not None}
    given.update({"schedule": explicit("schedule", answered(given["schedule"]))} if given.get("schedule") else {})
    given.update({"treatment": explicit("treatment", given["treatment"])} if given.get("treatment") else {})
    size = positions(cfg) if cfg.get("data") else None
    return prune(build_backbone(cfg["backbone"], num_classes), positions=size, classes=classes, **given)


def positions(config: Mapping[str, Any]) -> int:
    """Return N, the grid positions of an image of the data's full size (COCO: short_side x long_side), padded as the detector pads it."""
    data, backbone, pyramid = config["data"], config["backbone"], config.get("task", {}).get("pyramid", {})
    patch = backbone.get("patch_size", 16)
    own = patch if backbone.get("adapter") is None else 2 * patch
    own = own if backbone.get("windows") is None else backbone.get("img_size", 224)
    step = max(own, *(int(patch / s) for s in pyramid.get("scales", (1,)) if s in SCALES), patch)
    height, width = data.get("short_side", data.get("side", 224)), data.get("long_side", data.get("side", 224))
    return (-(-height // step) * step // patch) * (-(-width // step) * step // patch)


def _or_none(axis: Any) -> Any:
    """Return None for an empty axis, which the configuration writes as {name: none}."""
    return None if isinstance(axis, Mapping) and axis.get("name") == "none" else axis
