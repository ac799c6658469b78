"""What a task is: a model around the encoder, batches, losses, a metric and the cost of a forward."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenprune.engine import PrunedViT
    from tokenprune.tasks.pictures import Picture

IMAGE_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, on the 0..255 scale, RGB
IMAGE_STD = (58.395, 57.12, 57.375)
_GIGA = 1e9


class Task(Protocol):
    """One task of one run. `cfg` is the resolved configuration with its groups selector, backbone, task, data, training, ..."""

    name: str
    gives: tuple[str, ...]  # fields of losses.base.Facts that its training knows beside the encoder's outputs

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


def pruned_of(model: nn.Module) -> "PrunedViT | None":
    """The PrunedViT inside a task's model (or the model itself); None in a model of timm as it is (task=timm)."""
    from tokenprune.engine import PrunedViT

    return next((m for m in model.modules() if isinstance(m, PrunedViT)), None)


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


def normalised(images: Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD) -> Tensor:
    """Images (B,3,H,W) on the 0..255 scale -> float, by default with ImageNet's statistics."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() - mean) / std


@torch.no_grad()
def encoder_cost(encoder: nn.Module, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Average the encoder's MACs and kept shares over images that pass through it one by one.

    Args:
        encoder: a PrunedViT or the EncoderMaps that it works in: an adapter changes what its selectors see, its own MACs do not count.
        batches: normalised images (1,3,H,W); one at a time, because a method's token count may depend on its image.

    Returns:
        gmac_linear, gmac_attention, gmac_norm, gmac_selector, gmac_total; kept_share and kept_per_block, shares in [0,1] of the
        positions that enter attention.
    """
    from tokenprune.measure.macs import encoder_macs

    training, pruned, rows = encoder.training, pruned_of(encoder), []
    encoder.eval()
    for images in batches:
        macs = encoder_macs(pruned, encoder.encode(images))
        rows.append([macs.linear, macs.attention, macs.norm, macs.selector, macs.total, *macs.kept_per_block])
    encoder.train(training)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    names = ("linear", "attention", "norm", "selector", "total")
    kept = mean[len(names) :]
    cost = {f"gmac_{name}": value / _GIGA for name, value in zip(names, mean, strict=False)}
    return {**cost, "kept_share": sum(kept) / len(kept), "kept_per_block": [round(share, 4) for share in kept]}
