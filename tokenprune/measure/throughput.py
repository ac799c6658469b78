"""Images a second of a whole model over batch sizes, pruned model and dense backbone run in turn (SViT Fig. 8, Table 6)."""

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
from tokenprune.measure.speed import DTYPES, attention_kernel, one_thread, precision, timed_by, untimed

FIELDS = ("throughput_mean", "throughput_sd", "throughput_speedup")
Images = Callable[[int, int], Tensor]  # (size, number) -> batch `number` of that size, normalised and on the device
_CAPTURE_PASSES = 3  # that PyTorch wants before a capture


@dataclass(frozen=True)
class ThroughputPlan:
    """What is measured, the `task.throughput` section.

    Args:
        batch_sizes: images a batch, ascending. largest: the last of them alone.
        batches: batches a size; mean and standard deviation are over them (the paper: 30).
        passes: over each batch, whose mean is the batch's speed (the paper: 50).
        warmup: passes over the first batch of each size that do not count.
        dtype: of `speed.DTYPES`; other than float32 by autocast.
        best_from: one size more, so many images or the half, the quarter, ... of them: the first that fits into memory; 0 for none.
        graphs: on CUDA, replay a CUDA graph of each model that can be captured (one whose token counts are known beforehand).

    Raises:
        InvalidConfig: a size, a number or a type that is out of range.
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

    Both go through the same engine, attention kernel and precision, pass by pass in turn, so that a slow moment of the machine hits both.

    Args:
        pruned: the encoder with its head, in eval mode.
        images: gives the batches; called once a batch, before it is timed.
        around: makes the whole model of an encoder; None: it is that already, a classifier.

    Returns:
        Lists with one entry a batch size: throughput_batch; throughput_mean and throughput_sd (images/s, over batches); and
        throughput_speedup (median over batches of dense / pruned seconds). Entries are None from the size on at which memory ran out. All
        are None where no speed can be claimed: under masked execution, and for selectors that drop nothing. throughput_note says how.
    """
    reason = untimed(pruned)
    if reason:
        nothing = {name: [None] * len(plan.batch_sizes) for name in FIELDS}
        return {"throughput_batch": list(plan.batch_sizes), **nothing, "throughput_note": reason}
    deployed, whole = pruned.deploy(), around or (lambda encoder: encoder)
    return over_batches((whole(deployed), whole(prune(deployed.backbone).eval())), images, plan, device)


@torch.inference_mode()
def over_batches(models: Sequence[nn.Module], images: Images, plan: ThroughputPlan, device: torch.device) -> dict[str, Any]:
    """Return what `throughput` does for the first of one or two classifiers; without a second there is no speed-up, only None."""
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
    """The first of best_from, its half, its quarter, ... images that fits into memory, and what `_speeds` says of it; None at 1."""
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
    """Seconds a batch of each model, a tuple a batch, None if memory ran out; and whether a CUDA graph was replayed."""
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
    """The model, or a CUDA graph of it where that is asked for and can be captured."""
    pruned = pruned_of(model)
    varies = pruned is not None and any(s.counts_vary for s in pruned.selectors.values())
    if device.type != "cuda" or not plan.graphs or varies:
        return model
    return captured(model, batch) or model


def captured(model: nn.Module, batch: Tensor) -> Callable[[Tensor], Any] | None:
    """Return a call that copies a batch into a CUDA graph of `model` and replays it; None where the model cannot be captured.

    A pass that asks the device for a number cannot be; then the model runs as it is, which the note says.
    """
    inputs, graph, side = batch.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_CAPTURE_PASSES):
            model(inputs)
    torch.cuda.current_stream().wait_stream(side)
    try:
        with torch.cuda.graph(graph):
            model(inputs)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        torch.cuda.synchronize()
        return None

    def replay(images: Tensor) -> None:
        inputs.copy_(images)
        graph.replay()

    return replay


def _note(device: torch.device, plan: ThroughputPlan, graphed: bool, kernel: str) -> str:
    how = "CUDA events" if device.type == "cuda" else "CPU seconds of one thread"
    graphs = ", CUDA graphs where token counts are known beforehand" if graphed else ""
    passes = "1 pass" if plan.passes == 1 else f"{plan.passes} passes"
    each = f"{plan.batches} batches of {passes} after {plan.warmup} to warm up"
    return f"whole model, {how}, {kernel}{plan.dtype}{graphs}, mean and standard deviation over {each}"
