"""Defines detection: Mask R-CNN or Cascade Mask R-CNN on COCO-style data. Detectron2 is imported when a model is built, not before."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenprune.data import DetectionData, build_detection, data_source
from tokenprune.measure.macs import encoder_cost
from tokenprune.registry import register
from tokenprune.tasks.base import Task, chosen
from tokenprune.tasks.data_checks import check_classes
from tokenprune.tasks.detection.guard import require_detectron2
from tokenprune.tasks.detection.settings import read_task
from tokenprune.tasks.encoder import positions
from tokenprune.tasks.paper_size import speed_at_size
from tokenprune.tasks.preprocessing import about_imagenet
from tokenprune.utils.console import say_if
from tokenprune.utils.modes import evaluating

if TYPE_CHECKING:
    import numpy as np

    from tokenprune.tasks.detection.loader import Resize
    from tokenprune.tasks.pictures import Picture


@register("task", "detection")
class DetectionTask(Task):
    """Detects objects and segments instances; the metric is COCO's box and mask AP."""

    name = "detection"
    reads = "detection"
    gives = ("presence", "foreground")

    def __init__(self) -> None:
        self._sets: dict[tuple[str, str], DetectionData] = {}

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check the settings of `task`; no data are read, and Detectron2 is not needed.

        Raises:
            InvalidConfig: Settings do not fit.
        """
        read_task(cfg["task"])

    @staticmethod
    def completed(cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `task` group without a paper's size that is null, so that a row has the key that it has where none is named."""
        task = dict(cfg["task"])
        if isinstance(task.get("evaluate"), Mapping) and task["evaluate"].get("paper_size", 0) is None:
            task["evaluate"] = {name: value for name, value in task["evaluate"].items() if name != "paper_size"}
        return task

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """Build the detector on the CPU with random weights.

        Raises:
            MissingDependency: Detectron2 is not installed.
            InvalidConfig: Settings do not fit; also its subclasses.
        """
        require_detectron2()
        say_if(about_imagenet(cfg))
        return self.build(cfg, len(self._data(cfg, "val").classes))

    def build(self, cfg: Mapping[str, Any], classes: int) -> nn.Module:
        """Build the detector for so many classes.

        Raises:
            MissingDependency: Detectron2 is not installed.
            InvalidConfig: Settings do not fit; also its subclasses.
        """
        require_detectron2()
        _quieten()
        from tokenprune.tasks.detection.conventions import drawing
        from tokenprune.tasks.detection.model import build_detector
        from tokenprune.tasks.encoder import build_pruned

        settings = read_task(cfg["task"])
        run = drawing(cfg, settings.conventions)
        return build_detector(settings, build_pruned(run, classes=classes), classes, cfg["backbone"])

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that find and name objects."""
        return list(model.roi_heads.parameters())

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the categories."""
        return tuple(self._data(cfg, "val").classes)

    def notes(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return the note on mean and std, if the model's own differ."""
        return list(filter(None, [about_imagenet(cfg)]))

    def begin(self, model: nn.Module) -> None:
        """Do nothing: no loss of this task needs a copy of the model."""

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[list[dict[str, Any]]]:
        """Yield augmented batches without end from iteration `start` on."""
        from tokenprune.tasks.detection import loader

        training, augment = cfg["training"], read_task(cfg["task"]).augment
        seed, workers = training.get("seed", 0), training.get("workers", 0)
        resize = replace(_resize(cfg), by="pillow", sizes="two_steps")  # conventions of evaluation are none of training
        return loader.train_batches(self._data(cfg, "train"), training["batch_size"], seed, start, augment, resize, workers)

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the RPN, box and mask losses of Detectron2 and the encoder's own."""
        return model(batch)

    def calibration(self, model: nn.Module, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Tensor], Any], list[Tensor]]:
        """Return the encoder with the modules that feed it, and `count` training images at test size in batches, normalised and padded."""
        from tokenprune.tasks.detection.evaluate import encoder_images

        batch = read_task(cfg["task"]).evaluate.batch_size
        return model.backbone.dense, list(encoder_images(model, self._data(cfg, "train"), count, _resize(cfg), batch))

    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """Return AP in points on the validation split, with bootstrap standard errors; `resampled` then has AP over the resamples.

        Returns:
            ap_box, ap_box_se, ap_mask, ap_mask_se, ap50_box, ...; ap_box_spread and ap_mask_spread over several draws of gates.
        """
        from tokenprune.tasks.detection.evaluate import evaluate

        metrics, self.resampled = evaluate(model, self._data(cfg, "val"), read_task(cfg["task"]).evaluate, _resize(cfg))
        return metrics

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encoder's GMACs and kept shares over validation images, and the seconds an image of encoder and whole detector."""
        from tokenprune.tasks.detection import evaluate as measuring
        from tokenprune.tasks.detection.loader import test_input

        data, settings, resize = self._data(cfg, "val"), read_task(cfg["task"]).evaluate, _resize(cfg)
        cost = encoder_cost(model.backbone.dense, measuring.encoder_images(model, data, settings.cost_images, resize))
        timed = [test_input(data[i], resize) for i in range(min(settings.speed_images, len(data)))]
        cost |= measuring.measure_speed(model, timed, settings)
        if settings.paper_size is not None:
            with evaluating(model):
                kept = cost["kept_per_block"]
                cost |= speed_at_size(cfg, model.pruned, positions(cfg), kept, settings.paper_size, model.device)
        return cost

    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> "Iterator[Picture]":
        """Yield validation pictures with the tokens that each block used, and with the objects found if `predict`."""
        from tokenprune.tasks.detection.pictures import pictures

        data = self._data(cfg, "val")
        return pictures(model, data, chosen(numbers, len(data)), _resize(cfg), predict)

    def look(self, model: nn.Module, cfg: Mapping[str, Any], images: "Sequence[np.ndarray]", names: Sequence[str]) -> "Iterator[Picture]":
        """Yield pictures of the user's own, at the size of a test, with the objects found."""
        from tokenprune.tasks.detection.pictures import looked

        return (looked(model, image, _resize(cfg), names, number) for number, image in enumerate(images))

    def _data(self, cfg: Mapping[str, Any], split: str) -> DetectionData:
        """Return a split, opened once: the annotations of a large set take seconds to read.

        The labels of val are numbered as those of train, which the weights were trained with.

        Raises:
            DatasetError: The data cannot be read, or the two splits have different classes.
        """
        group = str(cfg["data"])
        if (split, group) not in self._sets:
            self._sets[split, group] = opened = build_detection(cfg["data"], split)
            first = opened if split == "train" else self._sets.get(("train", group))
            known = data_source(cfg["data"]).class_names("detection", "train") if first is None else first.classes
            if ("val", group) in self._sets and known is not None:
                _relabel(self._sets["val", group], known)
        return self._sets[split, group]


def _relabel(val: DetectionData, classes: tuple[str, ...]) -> None:
    """Number the labels of `val` in the order of `classes`; a data set that cannot is refused if it has another order."""
    check_classes(tuple(classes), tuple(val.classes), mapped=hasattr(val, "relabel"))
    if tuple(classes) != tuple(val.classes):
        val.relabel(classes)


def _quieten() -> None:
    """Hide two deprecation notices of torch about Detectron2's own code, on which users cannot act."""
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"torch\.meshgrid: in an upcoming release", category=UserWarning)


def _resize(cfg: Mapping[str, Any]) -> "Resize":
    from tokenprune.tasks.detection.loader import Resize

    data, view = cfg["data"], read_task(cfg["task"]).conventions
    return Resize(data.get("short_side"), data.get("long_side") or 1333, view.resize, view.sizes)
