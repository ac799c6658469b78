"""Measures images a second of a whole model over batch sizes; pruned model and dense backbone run in turn (SViT Fig. 8, Table 6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.model import PrunedViT, pruned_of
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig, is_out_of_memory
from tokenprune.measure.replayed import captured_pass
from tokenprune.measure.speed import DTYPES, attention_kernel, one_thread, precision, timed_by, untimed

FIELDS = ("throughput_mean", "throughput_sd", "throughput_speedup")
Images = Callable[[int, int], Tensor]  # (size, number) -> batch `number` of that size, normalised and on the device


@dataclass(frozen=True)
class ThroughputPlan:
    """Sets which batches are measured: the `task.throughput` section.

    Args:
        batch_sizes: Images a batch, ascending.
        batches: Batches of each size; mean and standard deviation are over them (the paper: 30).
        passes: Passes over each batch; their mean is the batch's speed (the paper: 50).
        warmup: Passes over the first batch of each size that do not count.
        dtype: One of `speed.DTYPES`; all but float32 run by autocast.
        graphs: On CUDA, replay a CUDA graph of each model that can be captured, which is one whose token counts are known beforehand.
        largest: Measure the last of the batch sizes alone.
        best_from: Add one size: the first of this number of images, its half, its quarter, ... that fits into memory; 0 for none.

    Raises:
        InvalidConfig: A size, a number or a type is out of range.
    """

    batch_sizes: tuple[int, ...] = (1, 8)
    batches: int = 30
    passes: int = 1
    warmup: int = 2
    dtype: str = "float32"
    graphs: bool = False
    largest: bool = False
    best_from: int = 0

    def __post_init__(self) -> None:
        sizes, where = self.batch_sizes, "task.throughput"
        bad = [
            (not sizes or list(sizes) != sorted(set(sizes)) or min(sizes) < 1, "batch_sizes", sizes, "ascending whole numbers from 1 on"),
            (min(self.batches, self.passes) < 1, "batches and passes", (self.batches, self.passes), "1 and more"),
            (min(self.warmup, self.best_from) < 0, "warmup and best_from", (self.warmup, self.best_from), "0 and more"),
            (self.dtype not in DTYPES, "dtype", repr(self.dtype), ", ".join(DTYPES)),
        ]
        problems = [f"{where}.{name}: got {got}; allowed: {allowed}" for wrong, name, got, allowed in bad if wrong]
        if problems:
            raise InvalidConfig(problems)
        object.__setattr__(self, "batch_sizes", tuple(sizes[-1:] if self.largest else sizes))


@torch.inference_mode()
def throughput(
    pruned: PrunedViT, images: Images, plan: ThroughputPlan, device: torch.device, around: Callable[[PrunedViT], nn.Module] | None = None
) -> dict[str, Any]:
    """Return images a second of `pruned` at each batch size, and its gain over its own backbone with nothing dropped.

    Both go through the same engine, attention kernel and precision, pass by pass in turn, so that a slow moment of the machine affects
    both.

    Args:
        pruned: The encoder with its head, in eval mode.
        images: Gives the batches; called once a batch, before it is timed.
        plan: The batches to measure.
        device: The device that runs everything.
        around: Makes the whole model of an encoder. None: the encoder is the whole model, a classifier.

    Returns:
        Lists with one entry a batch size: throughput_batch; throughput_mean and throughput_sd (images/s, over batches); throughput_speedup
        (median over batches of dense / pruned seconds). Entries are None from the size on at which memory ran out. All entries are None if
        no speed can be claimed: under masked execution, and for selectors that skip no computation. throughput_note says how they were
            taken.
    """
    reason = untimed(pruned)
    if reason:
        nothing = {name: [None] * len(plan.batch_sizes) for name in FIELDS}
        return {"throughput_batch": list(plan.batch_sizes), **nothing, "throughput_note": reason}
    deployed, whole = pruned.deploy(), around or (lambda encoder: encoder)
    return over_batches((whole(deployed), whole(prune(deployed.backbone).eval())), images, plan, device)


@torch.inference_mode()
def over_batches(models: Sequence[nn.Module], images: Images, plan: ThroughputPlan, device: torch.device) -> dict[str, Any]:
    """Return the result of `throughput` for the first of one or two classifiers. Without a second one the speed-ups are None."""
    points, graphed, sizes, full, more = [], False, list(plan.batch_sizes), False, ""
    with one_thread(device), precision(device, plan.dtype):
        for size in sizes:
            speeds, captured = (None, False) if full else _speeds(models, images, size, plan, device)
            points.append((None, None, None) if speeds is None else _summary(speeds, size))
            graphed, full = graphed | captured, speeds is None
        if plan.best_from and not full:
            size, speeds = _halved(models, images, plan, device)
            sizes.append(size)
            points.append((None, None, None) if speeds is None else _summary(speeds, size))
            more = _halvings(plan.best_from, size, speeds is None)
    lists = {name: list(values) for name, values in zip(FIELDS, zip(*points, strict=True), strict=True)}
    turns = ", dense and pruned in turn" if len(models) > 1 else ""
    kernel = next((f"{attention_kernel(encoder)}, " for model in models if (encoder := pruned_of(model)) is not None), "")
    return {"throughput_batch": sizes, **lists, "throughput_note": _note(device, plan, graphed, kernel) + turns + more}


def _halved(models: Sequence[nn.Module], images: Images, plan: ThroughputPlan, device: torch.device) -> tuple[int, Any]:
    """Return the first batch size that fits into memory, of best_from, its half, its quarter, ..., and its `_speeds`; None if 1 fails."""
    size = plan.best_from
    while True:
        speeds, _ = _speeds(models, images, size, plan, device)
        if speeds is not None or size == 1:
            return size, speeds
        size //= 2


def _halvings(wanted: int, size: int, failed: bool) -> str:
    if failed:
        return f"; no batch of {wanted} images or fewer fits into memory"
    return "" if size == wanted else f"; of {wanted} images halved to {size}, which fit into memory"


def _speeds(
    models: Sequence[nn.Module], images: Images, size: int, plan: ThroughputPlan, device: torch.device
) -> tuple[list[tuple[float, ...]] | None, bool]:
    """Return the seconds a batch of each model, and whether a CUDA graph was replayed.

    The seconds are one tuple a batch, or None if memory ran out.
    """
    try:
        first = images(size, 0)
        runs = [_runner(model, first, plan, device) for model in models]
        for _ in range(plan.warmup):
            for run in runs:
                run(first)
        timer = timed_by(device)
        batches = (first if number == 0 else images(size, number) for number in range(plan.batches))
        times = [_mean_of_passes([[timer(partial(run, batch)) for run in runs] for _ in range(plan.passes)]) for batch in batches]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return None, False
    return times, any(run is not model for run, model in zip(runs, models, strict=True))


def _mean_of_passes(passes: list[list[float]]) -> tuple[float, ...]:
    return tuple(fmean(times) for times in zip(*passes, strict=True))


def _summary(times: list[tuple[float, ...]], size: int) -> tuple[float, float, float | None]:
    mine = [size / own for own, *_ in times]
    speedups = [dense / own for own, *others in times for dense in others]
    return fmean(mine), stdev(mine) if len(mine) > 1 else 0.0, median(speedups) if speedups else None


def _runner(model: nn.Module, batch: Tensor, plan: ThroughputPlan, device: torch.device) -> Callable[[Tensor], Any]:
    """Return the model, or a CUDA graph of it if that is asked for and can be captured."""
    pruned = pruned_of(model)
    varies = pruned is not None and any(s.counts_vary for s in pruned.selectors.values())
    if device.type != "cuda" or not plan.graphs or varies:
        return model
    return captured(model, batch) or model


def captured(model: nn.Module, batch: Tensor) -> Callable[[Tensor], Any] | None:
    """Return a call that copies a batch into a CUDA graph of `model` and replays it, or None if the model cannot be captured.

    A pass that asks the device for a number cannot be captured. Then the model runs as it is, and the note says so.
    """
    try:
        return captured_pass(model, batch)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        torch.cuda.synchronize()
        return None


def _note(device: torch.device, plan: ThroughputPlan, graphed: bool, kernel: str) -> str:
    how = "CUDA events" if device.type == "cuda" else "CPU seconds of one thread"
    graphs = ", CUDA graphs where token counts are known beforehand" if graphed else ""
    passes = "1 pass" if plan.passes == 1 else f"{plan.passes} passes"
    each = f"{plan.batches} batches of {passes} after {plan.warmup} to warm up"
    return f"whole model, {how}, {kernel}{plan.dtype}{graphs}, mean and standard deviation over {each}"
