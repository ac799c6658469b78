"""Answers a user's first three questions about a pruned model: what it costs, how fast it is, and which tokens it keeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.model import PrunedViT, pruned_of
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.macs import Macs, encoder_macs, planned_macs
from tokenprune.measure.speed import attention_kernel, quartiles, seconds_in_turn, untimed
from tokenprune.measure.usage import record
from tokenprune.utils.modes import evaluating

_GIGA = 1e9
_PARTS = ("linear", "attention", "norm", "selector", "total")


@dataclass(frozen=True)
class Cost:
    """Holds the cost of one image in GMAC, which papers print as GFLOPs, and the tokens that each block keeps. Its text is a table.

    Papers count by two conventions. SViT, EViT and DynamicViT print `gmac`; Cropr prints `gmac_linear`.

    Attributes:
        gmac: Layers with weights, products of attention, and selectors; no norms.
        gmac_linear: Layers with weights alone.
        gmac_attention: Products of attention.
        gmac_norm: Norms, 5 an element. Neither convention counts them.
        gmac_selector: Selectors, and what a treatment computes to merge.
        dense: `gmac` of the same backbone with every token.
        dense_linear: `gmac_linear` of the same backbone with every token.
        kept: Patch tokens in the attention of each block, a mean over images.
        positions: Number N of patches of an image.
        how: Says whether the schedule was counted or images ran.
    """

    gmac: float
    gmac_linear: float
    gmac_attention: float
    gmac_norm: float
    gmac_selector: float
    dense: float
    dense_linear: float
    kept: tuple[float, ...]
    positions: int
    how: str

    @property
    def share(self) -> float:
        """Return `gmac` / `dense`."""
        return self.gmac / self.dense

    def __str__(self) -> str:
        """Return both conventions beside the dense model's, and the kept tokens by block."""
        lines = [
            f"{self.gmac:8.3f} GMAC, {self.share:.1%} of the dense {self.dense:.3f} (linear + attention + selector)",
            f"{self.gmac_linear:8.3f} GMAC, {self.gmac_linear / self.dense_linear:.1%} of the dense {self.dense_linear:.3f} (linear alone)",
            f"tokens in each block, of {self.positions}: " + " ".join(f"{count:.4g}" for count in self.kept),
            f"({self.how})",
        ]
        return "\n".join(lines)


def cost(model: nn.Module, images: Tensor | None = None, size: int | tuple[int, int] | None = None, head: bool = False) -> Cost:
    """Return the cost of one image by both conventions of counting, and the kept tokens of each block.

    Args:
        model: A pruned model, a module around one, or a timm model that can be pruned, which counts as dense.
        images: Normalised images (B,3,h,w) to average over. None counts what the schedule plans, without running anything; that is exact
            for a fixed number of tokens, and an expectation or a bound where images decide (`macs.planned_macs`).
        size: Side, or (h,w), of an image in pixels, if `images` is None. None takes the model's own.
        head: Whether the classification head counts, too. Result rows leave it out.

    Raises:
        InvalidConfig: `size` is given beside images, or is no size.
    """
    pruned = _pruned(model, "cost")
    dense = prune(pruned.backbone)
    if images is None:
        positions, how = _positions(pruned, size), "as the schedule plans it"
        macs = planned_macs(pruned, positions, head)
    else:
        if size is not None:
            raise InvalidConfig(f"cost: size is {size!r} beside images; allowed: one of the two, because images have a size")
        with torch.no_grad(), evaluating(pruned):
            outputs = pruned.encode(images)
        positions, how = outputs.state.positions, f"measured on {len(images)} image{'s' * (len(images) > 1)}"
        macs = encoder_macs(pruned, outputs, head)
    return _cost(macs, planned_macs(dense, positions, head), positions, how)


def _cost(macs: Macs, dense: Macs, positions: int, how: str) -> Cost:
    linear, attention, norm, selector, total = (getattr(macs, name) / _GIGA for name in _PARTS)
    kept = tuple(share * positions for share in macs.kept_per_block)
    return Cost(total, linear, attention, norm, selector, dense.total / _GIGA, dense.linear / _GIGA, kept, positions, how)


@dataclass(frozen=True)
class Speed:
    """Holds the times of a pruned and a dense model that ran in turn on the same images. Its text is three lines.

    Attributes:
        seconds: Median seconds of a pass of the pruned model.
        seconds_dense: The same of the dense model.
        speedup: Median over rounds of dense / pruned seconds of one round.
        quartiles: First and third quartile of the pruned seconds.
        quartiles_dense: The same of the dense seconds.
        quartiles_speedup: The same of the speed-ups.
        batch: Images in a pass.
        how: Says what was timed: clock, attention, rounds.
    """

    seconds: float
    seconds_dense: float
    speedup: float
    quartiles: tuple[float, float]
    quartiles_dense: tuple[float, float]
    quartiles_speedup: tuple[float, float]
    batch: int
    how: str

    @property
    def images_per_second(self) -> float:
        """Return images a second of the pruned model."""
        return self.batch / self.seconds

    def __str__(self) -> str:
        """Return the speed-up and both models' images a second, each with its quartiles."""
        low, high = self.quartiles_speedup
        lines = [f"{self.speedup:.2f} times the dense speed (quartiles {low:.2f} to {high:.2f})"]
        for name, seconds, spread in (("pruned", self.seconds, self.quartiles), ("dense", self.seconds_dense, self.quartiles_dense)):
            rates = [self.batch / value for value in (seconds, *spread)]
            lines.append(f"{name}: {rates[0]:.4g} images/s (quartiles {rates[2]:.4g} to {rates[1]:.4g})")
        return "\n".join([*lines, f"({self.how})"])


def speed(model: nn.Module, dense: nn.Module | None = None, images: Tensor | None = None, rounds: int = 20, warmup: int = 3) -> Speed:
    """Time a pruned model beside a dense one: in each round both run once, so that a slow moment of the machine affects both.

    Args:
        model: A pruned model, as it answers: with its head. Or a module around one, with `dense` and `images`.
        dense: The model to compare with. None takes the pruned model's own backbone with every token.
        images: Normalised images (B,3,h,w) on the device of the models. None takes one random image of the model's own size; a selector
            that looks at the image may keep another number of tokens of a real one.
        rounds: Number of rounds.
        warmup: Passes of each model that do not count.

    Raises:
        InvalidConfig: `rounds` is no positive number.
        TokenPruneError: The model computes the tokens that it drops (masked execution), so its time says nothing; or it is a detector
            or a segmenter, and `dense` or `images` is missing.
    """
    if not (type(rounds) is int and rounds > 0):
        raise InvalidConfig(f"speed: rounds is {rounds!r}; allowed: whole numbers from 1 on")
    pruned = _pruned(model, "speed")
    if reason := untimed(pruned):
        raise TokenPruneError(f"speed: {reason}; build the model with execution='auto' or another selector")
    if model is not pruned and (dense is None or images is None):
        raise TokenPruneError(f"speed: {type(model).__name__} is more than an encoder; give `dense`, a model like it, and `images`")
    device = next(model.parameters()).device
    x = _random_image(pruned, device) if images is None else images
    against = prune(pruned.backbone) if dense is None else dense
    with evaluating(model), evaluating(against):
        calls: dict[str, Callable[[], Any]] = {"pruned": partial(model, x), "dense": partial(against, x)}
        taken = seconds_in_turn(calls, rounds, device, warmup)
    return _speed(
        taken["pruned"], taken["dense"], len(x), f"{_clock(device)}, {attention_kernel(pruned)}, {_about(images)}, {rounds} rounds"
    )


def _speed(mine: Sequence[float], full: Sequence[float], batch: int, how: str) -> Speed:
    ratios = [d / p for d, p in zip(full, mine, strict=True)]
    spreads = (_pair(values) for values in (mine, full, ratios))
    return Speed(median(mine), median(full), median(ratios), *spreads, batch, f"batch {batch}, {how}")


def kept(model: nn.Module, images: Any, block: int | None = None) -> Tensor:
    """Return which patches a block uses: True where the patch's own token enters the block's attention.

    Args:
        model: A pruned model or a module around one, such as a detector.
        images: What the model takes: normalised images (B,3,h,w), or a detector's list of inputs.
        block: Number of the block, from 0; negative numbers count from the last. None returns all blocks.

    Returns:
        (B,H,W) bool on the CPU, or (B,L,H,W) of all L blocks. A merged token counts as its own position alone. Of a padded batch the
        patches of the padding are included.

    Raises:
        InvalidConfig: There is no such block.
        TokenPruneError: The model has no pruned encoder.
    """
    depth = _pruned(model, "kept").depth
    if block is not None and not (type(block) is int and -depth <= block < depth):
        raise InvalidConfig(f"kept: block is {block!r}; allowed: 0 to {depth - 1}, or -1 for the last, or None for all")
    with torch.no_grad(), evaluating(model), record(model) as seen:
        model(images)
    every = torch.stack([image.blocks.unflatten(1, image.grid) for image in seen.images])
    return every if block is None else every[:, block]


def _pruned(model: nn.Module, asked: str) -> PrunedViT:
    """Return the pruned encoder of a model; of a plain timm model, its dense one for `cost`."""
    found = pruned_of(model)
    if found is not None:
        return found
    if asked == "cost":
        return prune(model)
    raise TokenPruneError(f"{asked}: {type(model).__name__} has no pruned encoder; make one with tokenprune.prune(model, selector=...)")


def _positions(pruned: PrunedViT, size: int | tuple[int, int] | None) -> int:
    if size is None:
        return pruned.family.own_positions
    sides = (size, size) if type(size) is int else size
    if not (isinstance(sides, (tuple, list)) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise InvalidConfig(f"cost: size is {size!r}; allowed: a side in pixels, or (height, width)")
    rows, columns = pruned.family.positions(*sides)
    return rows * columns


def _random_image(pruned: PrunedViT, device: torch.device) -> Tensor:
    return torch.randn(1, 3, *pruned.family.own_size, generator=torch.Generator().manual_seed(0)).to(device)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, third = quartiles(values)
    return first, third


def _clock(device: torch.device) -> str:
    return "CUDA events" if device.type == "cuda" else "CPU seconds of one thread"


def _about(images: Tensor | None) -> str:
    return "a random image" if images is None else "the given images"
