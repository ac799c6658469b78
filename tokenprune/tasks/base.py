"""What a task is: a model around the encoder, batches, losses, a metric and the cost of a forward."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tokenprune.engine.model import pruned_of

if TYPE_CHECKING:
    from tokenprune.tasks.pictures import Picture


class Task(Protocol):
    """One task of one run. `cfg` is the resolved configuration with its groups selector, backbone, task, data, training, ..."""

    name: str
    gives: tuple[str, ...]  # fields of losses.base.LossInputs that its training knows beside the encoder's outputs

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """The whole model, encoder and head, on the CPU with random weights."""
        ...

    def begin(self, model: nn.Module) -> None:
        """Take note of a model as it starts training, its first weights loaded (a teacher is a copy of it)."""
        ...

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Any]:
        """Endless batches from iteration `start` on; batch i depends on the seed and on i alone."""
        ...

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Weighted scalar losses by name."""
        ...

    def calibration(self, model: nn.Module, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Any], Any], list[Any]]:
        """One pass of the encoder, and batches for it of `count` training images as the test sees images, without augmentation."""
        ...

    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """Metrics on the validation data: AP, top-1 and mIoU in points 0..100, with their standard errors (`*_se`)."""
        ...

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """GMACs (means over validation images), kept shares and seconds an image, as in the result schema's `cost`."""
        ...

    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> "Iterator[Picture]":
        """Validation pictures as `model`, in eval mode, saw them one by one: what figures show.

        numbers: indices in the split, those beyond its end left out; None is all. predict: with the model's predictions, if it makes any.
        """
        ...


def chosen(numbers: Sequence[int] | None, size: int) -> list[int]:
    """The indices of `numbers` that a split of `size` has; None is all of them."""
    return list(range(size)) if numbers is None else [n for n in numbers if 0 <= n < size]


def parameters_of(model: nn.Module) -> int:
    """Number of parameters of a task's whole model as it is deployed: selectors without what only training needs."""
    pruned = pruned_of(model)
    selectors = [] if pruned is None else list(pruned.selectors.values())
    shed = sum(_size(selector) - _size(selector.deploy()) for selector in selectors)
    return _size(model) - shed


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives."""
    return next(model.parameters()).device
