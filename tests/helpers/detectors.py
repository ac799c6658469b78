"""Published detectors on weights that are filled by name: saved as their authors save them, imported, run, compared with their own code."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def saved(state: dict[str, Tensor], path: Path, **meta: Any) -> Path:
    """Write a file as mmcv's save_checkpoint does; return its path."""
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict()  # type: ignore[attr-defined]
    content = {"meta": {"epoch": 36, "iter": 263880, "mmdet_version": "2.28.1", **meta}, "state_dict": ordered}
    torch.save({**content, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def built(imported: Any) -> nn.Module:
    """Return the detector that an import's settings describe, with its weights, in eval mode; every key must have its place."""
    from tokenprune.backbones.vit import build_vit
    from tokenprune.engine.prune import prune
    from tokenprune.tasks.detection.model import build_detector
    from tokenprune.tasks.detection.settings import read_task

    settings, axes = imported.settings, ("selector", "treatment", "schedule", "cls")
    pruned = prune(build_vit(settings["backbone"]), **{axis: settings[axis] for axis in axes if axis in settings})
    detector = build_detector(read_task(settings["task"]), pruned, imported.classes, settings["backbone"])
    detector.load_state_dict(imported.state, strict=True)
    return detector.eval()
