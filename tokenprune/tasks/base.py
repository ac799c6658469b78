"""Defines the contract of a task: a model around the encoder, batches, losses, a metric and the cost of a forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.engine.model import pruned_of
from tokenprune.errors import TokenPruneError
from tokenprune.measure.resamples import Resampled
from tokenprune.tasks.data_checks import check_data

if TYPE_CHECKING:
    import numpy as np

    from tokenprune.tasks.pictures import Picture


class Task(ABC):
    """Does one task of one run.

    `cfg` is always the resolved configuration with its groups selector, backbone, task, data, training, ...

    Attributes:
        name: Name of the task in the registry.
        prunes: False for a task that takes unmodified models, which have no selector and no schedule.
        measures_throughput: Whether the task implements `throughput`.
        gives: Fields of `engine.loss.LossInputs` that its training knows beside the encoder's outputs.
        per_image: What the latest `evaluate` found for each validation image, by name, in the order of the split; kept beside the row for
            paired comparisons. {} for a task whose metric is no mean over images.
        resampled: Metrics of the latest `evaluate` over resamples of the validation pictures, kept beside the row for paired comparisons.
            None for a task without resamples.
        reads: Kind of the items that it reads (detection, classification, segmentation), one of a data set's `tasks`; "" for any.
    """

    name: ClassVar[str]
    gives: ClassVar[tuple[str, ...]] = ()
    prunes: ClassVar[bool] = True
    measures_throughput: ClassVar[bool] = False
    reads: ClassVar[str] = ""
    per_image: Mapping[str, Tensor] = {}
    resampled: Resampled | None = None

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check the task's settings before weights or images are read. A task without settings of its own checks nothing.

        Raises:
            InvalidConfig: Settings do not fit; the message names each.
        """
        return

    @staticmethod
    def completed(cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `task` group of a run with the values that depend on its model or data where they are not given."""
        return dict(cfg["task"])

    @classmethod
    def check_data(cls, cfg: Mapping[str, Any], files: bool = True) -> None:
        """Check before anything runs that the data set has what the task `reads`, and that both splits have the same classes.

        Args:
            cfg: The run.
            files: False if the files may be missing.

        Raises:
            InvalidConfig: The data set has labels of another kind.
            DatasetError: A split is missing or malformed, or train and val have other classes.
        """
        if cls.reads:
            check_data(cfg, cls.reads, files)

    @staticmethod
    def plan_in_words(cfg: Mapping[str, Any]) -> str:
        """Describe a run whose model is not pruned, in place of its schedule. This is only called if `prunes` is False."""
        return ""

    @abstractmethod
    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """Build the whole model, encoder and head, on the CPU with random weights."""

    def build(self, cfg: Mapping[str, Any], classes: int) -> nn.Module:
        """Build the whole model from its settings alone, without data: `build_model` for a known number of classes.

        Args:
            cfg: The groups `task`, `backbone`, `selector`, `treatment` and `schedule`, as far as they are needed.
            classes: Number of classes.

        Raises:
            TokenPruneError: The task cannot.
        """
        raise TokenPruneError(f"task {self.name!r} builds no model without its data; give it `build` (see tokenprune/tasks/base.py)")

    def begin(self, model: nn.Module) -> None:
        """Take note of a model that starts training, with its first weights loaded (a teacher is a copy of it)."""
        return

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of the head, which files of encoders lack; [] if the task has none. An untouched head is not judged."""
        return []

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the head's classes in the order of its outputs; () where they have none."""
        return ()

    def notes(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return what a reader of the row must know of its data and of how it was judged; called when the model has been judged."""
        return []

    @abstractmethod
    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Any]:
        """Yield batches without end from iteration `start` on; batch i depends on the seed and on i alone."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return weighted scalar losses by name."""

    def calibration(self, model: nn.Module, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Any], Any], list[Any]]:
        """Return one pass of the encoder, and batches for it of `count` training images without augmentation, as in a test.

        Raises:
            TokenPruneError: The task has no images to calibrate selectors on.
        """
        raise TokenPruneError(f"task {self.name!r} calibrates no selector; set selector.calibration_images=0, or give it `calibration`")

    @abstractmethod
    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """Return metrics on the validation data: AP, top-1 and mIoU in points 0..100, with their standard errors (`*_se`)."""

    @abstractmethod
    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return GMACs (means over validation images), kept shares and seconds an image, as in the result schema's `cost`."""

    def throughput(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return images per second over batch sizes, as in the result schema's `cost`; see `measures_throughput`."""
        raise TokenPruneError(f"task {self.name!r} does not measure throughput; allowed: measure=[accuracy,cost]")

    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> "Iterator[Picture]":
        """Yield validation pictures, for figures, as `model` in eval mode sees them one by one.

        Args:
            model: The model, in eval mode.
            cfg: The run.
            numbers: Indices in the split; those beyond its end are left out. None is all.
            predict: Whether to add the model's predictions, if it makes any.

        Raises:
            TokenPruneError: The task shows no pictures.
        """
        raise TokenPruneError(f"task {self.name!r} shows no pictures; give it a method `pictures` (see tokenprune/tasks/base.py)")

    def look(self, model: nn.Module, cfg: Mapping[str, Any], images: "Sequence[np.ndarray]", names: Sequence[str]) -> "Iterator[Picture]":
        """Yield pictures of the user's own as `model` in eval mode sees them: with predictions, owners, tokens and GMAC.

        No data set is opened.

        Args:
            model: The model, in eval mode.
            cfg: The run.
            images: RGB pixels of any size, (h,w,3) uint8 each.
            names: Names of the classes; () where they are not known.

        Raises:
            TokenPruneError: The task shows no pictures of the user's own.
        """
        raise TokenPruneError(f"task {self.name!r} shows no pictures of your own; give it a method `look` (see tokenprune/tasks/base.py)")


def chosen(numbers: Sequence[int] | None, size: int) -> list[int]:
    """Return the indices of `numbers` that a split of `size` has. None is all of them."""
    return list(range(size)) if numbers is None else [n for n in numbers if 0 <= n < size]


def parameters_of(model: nn.Module) -> int:
    """Return the number of parameters of a task's whole model as it is deployed: selectors without the parts that only training needs."""
    pruned = pruned_of(model)
    selectors = [] if pruned is None else list(pruned.selectors.values())
    shed = sum(_size(selector) - _size(selector.deploy()) for selector in selectors)
    return _size(model) - shed


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model."""
    return next(model.parameters()).device
