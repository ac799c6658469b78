"""Published detectors on weights that are filled by name: saved as their authors save them, imported, run, compared with their own code."""

import json
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.helpers.filled import SHARED, TRIMMED, filled, shapes_of
from tests.helpers.image_sets import real
from tokenprune.data.opencv import resize


def saved(state: dict[str, Tensor], path: Path, **meta: Any) -> Path:
    """Write a file as mmcv's save_checkpoint does; return its path."""
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict()  # type: ignore[attr-defined]
    content = {"meta": {"epoch": 36, "iter": 263880, "mmdet_version": "2.28.1", **meta}, "state_dict": ordered}
    torch.save({**content, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def built(imported: Any, **task: Any) -> nn.Module:
    """Return the detector that an import's settings describe, with its weights, in eval mode; every key must have its place.

    Args:
        imported: What a layout made of a file.
        task: Further settings of the task.
    """
    from tokenprune.backbones.vit import build_vit
    from tokenprune.engine.prune import prune
    from tokenprune.tasks.detection.model import build_detector
    from tokenprune.tasks.detection.settings import read_task

    settings, axes = imported.settings, ("selector", "treatment", "schedule", "cls")
    pruned = prune(build_vit(settings["backbone"]), **{axis: settings[axis] for axis in axes if axis in settings})
    detector = build_detector(read_task({**settings["task"], **task}), pruned, imported.classes, settings["backbone"])
    detector.load_state_dict(imported.state, strict=True)
    return detector.eval()


@lru_cache(maxsize=1)
def shifts() -> dict[str, dict[str, Any]]:
    """Return {model: {key: calibration constant}} of the four detectors."""
    return json.loads((TRIMMED / "detectors.json").read_text())["shifts"]


@lru_cache(maxsize=1)
def release(name: str) -> Any:
    """Return a detector's file as `read_release` gives it: vit_t, vit_s, svit_t or svit_s."""
    from tokenprune.zoo.release import read_release

    with TemporaryDirectory() as folder:
        path = saved(filled(shapes_of(SHARED / f"svit/keys_{name}.json"), shifts=shifts()[name]), Path(folder) / f"{name}.pth")
        return read_release(path)


@lru_cache(maxsize=1)
def imported(name: str, task: tuple = ()) -> nn.Module:
    """Return such a detector, imported and built, with further settings of the task, as `released` gives them."""
    from tokenprune.zoo.layout import converted

    view = {"view": dict(task[1])} if task else {}
    return built(converted(release(name), {}), **({"evaluation": task[0]} if task else {}), **view)


def released(**view: Any) -> tuple:
    """Return the settings of the authors' evaluation for `imported`, with single conventions of a view."""
    return "released", tuple(view.items())


class Golden:
    """What the authors' code computed for one picture, or for single parts (a probe).

    Args:
        model: vit_t, vit_s, svit_t or svit_s.
        picture: landscape or portrait; "" for the probe.
        size: mini or full.
    """

    def __init__(self, model: str, picture: str = "", size: str = "") -> None:
        stem = SHARED / "svit" / "dev" / (f"{model}_{picture}_{size}" if picture else f"probe_{model}")
        self.picture, self.size = picture, size
        self.numbers = load_file(stem.with_suffix(".safetensors"))
        self.facts = json.loads(stem.with_suffix(".json").read_text())

    def difference(self, name: str, found: Tensor) -> float:
        """Return the greatest difference of a tensor of ours from the numbers that are kept of theirs; shapes must agree."""
        known = self.facts.get("tensors", {}).get(name, {"shape": list(self.numbers[name].shape), "step": 1})
        assert list(found.shape) == known["shape"], f"{name}: {list(found.shape)}, expected {known['shape']}"
        return float((found.flatten()[:: known["step"]] - self.numbers[name].flatten()).abs().max())

    def record(self) -> dict[str, Any]:
        """Return the picture as a detector of Detectron2 takes it; of the full size, resized by this project's OpenCV."""
        height, width = self.facts["meta"]["ori_shape"][:2]
        if self.size == "mini":
            pixels = np.asarray(Image.open(SHARED / "svit" / "dev" / f"input_{self.picture}_mini.png").convert("RGB"))
        else:
            pixels = resize(self.photo(), *self.facts["meta"]["img_shape"][:2])
        return {"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()), "height": height, "width": width}

    def photo(self) -> np.ndarray:
        """Return the pixels of the original photograph, (H,W,3) uint8."""
        return np.asarray(Image.open(real("coco_mini") / "val2017" / self.facts["image"]).convert("RGB"))

    def twins(self, found: Any, start: str = "") -> tuple[float, float, int]:
        """Return the greatest difference of a box, of a score and of a mask (in pixels) between our detections and theirs.

        Each of theirs must have a twin of its own among ours.
        """
        theirs, labels = self.numbers[f"{start}detections.boxes"], self.numbers[f"{start}detections.labels"]
        masks = self.facts["sampled_masks" if start else "masks"]
        assert len(found) == len(theirs) == len(masks), f"{len(found)} detections, theirs are {len(theirs)}"
        left, worst = list(range(len(found))), (0.0, 0.0, 0)
        for box, label, mask in zip(theirs, labels, masks, strict=True):
            same = [i for i in left if found.pred_classes[i] == label]
            assert same, f"no detection of class {int(label)} is left for {box.tolist()}"
            apart = {i: float((found.pred_boxes.tensor[i] - box[:4]).abs().max()) for i in same}
            twin = min(apart, key=apart.__getitem__)
            left.remove(twin)
            pixels = int((found.pred_masks[twin].numpy() != rle.decode({"size": mask["size"], "counts": mask["counts"]})).sum())
            these = (apart[twin], abs(float(found.scores[twin] - box[4])), pixels)
            worst = tuple(map(max, worst, these))
        return worst
