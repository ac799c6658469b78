"""Times the encoder, the backbone and the whole model in seconds an image, and the encoder's gain over the dense one, side by side."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch

from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.measure.memory import peak_memory

Step = Callable[[Any], Any]
DTYPES = ("float32", "bfloat16", "float16")
HALF = "half"  # of an evaluation: the half precision of published results
_FIELDS = ("seconds_encoder", "seconds_backbone", "seconds_total", "speedup_encoder")
_QUARTILES = ("seconds_encoder_quartiles", "seconds_total_quartiles", "speedup_encoder_quartiles")
_NO_IMAGES = "not timed: no images were asked for (speed_images=0)"
_MEBI = 2**20


@dataclass(frozen=True)
class SpeedPlan:
    """Sets how often and in which precision speed is measured.

    Args:
        warmup: Passes over the first image that do not count.
        repeats: Passes over each image that count.
        dtype: One of `DTYPES`; all but float32 run by autocast.
    """

    warmup: int = 1
    repeats: int = 1
    dtype: str = "float32"


@torch.inference_mode()
def seconds_per_image(
    pruned: PrunedViT,
    whole: Step,
    inputs: Sequence[tuple[Any, Any]],
    device: torch.device,
    backbone: Step | None = None,
    plan: SpeedPlan | None = None,
    alone: Callable[[Any], Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Time encoder, dense encoder, backbone and whole model on each input in turn, so that a slow moment of the machine affects all alike.

    Args:
        pruned: The encoder, in eval mode. The dense one is its own backbone with nothing dropped, through the same engine.
        whole: The whole model.
        inputs: For each image, the input of the encoder and backbone, and the input of the whole model.
        device: The device that runs everything.
        backbone: For dense tasks, the encoder with the modules that make feature maps of its tokens.
        plan: None takes one pass an image after one to warm up.
        alone: Given an image, returns the call that is the encoder's part of the backbone: an adapter changes the tokens between blocks,
            and so how many are kept. None runs the encoder on the image.

    Returns:
        seconds_encoder, seconds_backbone (None without one) and seconds_total: medians over all passes, batch 1. speedup_encoder: median of
        the passes' own ratios of dense to pruned. `*_quartiles`: first and third quartile of three of these. memory_encoder_mib: the most
        that the encoder holds at a time on the first image, without weights. seconds_note: how they were taken. All times are None under
        masked execution, which computes the tokens that it drops, for a selector that switches parts off without skipping them, and without
        inputs.
    """
    reason = untimed(pruned) or ("" if inputs else _NO_IMAGES)
    if reason:
        return {**dict.fromkeys(_FIELDS), "seconds_note": reason}
    plan, dense = plan or SpeedPlan(), prune(pruned.backbone)
    alone = alone or (lambda image: partial(pruned.encode, image))

    def calls(image: Any, record: Any) -> list[Callable[[], Any]]:
        maps = [] if backbone is None else [partial(backbone, image)]
        return [alone(image), partial(dense.encode, image), partial(whole, record), *maps]

    timer = timed_by(device)
    with one_thread(device), precision(device, plan.dtype):
        for call in calls(*inputs[0]) * plan.warmup:
            call()
        passes = [[timer(call) for call in these] for these in (calls(*pair) for pair in inputs) for _ in range(plan.repeats)]
        memory = peak_memory(alone(inputs[0][0]), device) / _MEBI
    mine, full, total, *maps = zip(*passes, strict=True)
    speedups = [d / p for d, p in zip(full, mine, strict=True)]
    found = (median(mine), median(maps[0]) if maps else None, median(total), median(speedups))
    spread = dict(zip(_QUARTILES, map(quartiles, (mine, total, speedups)), strict=True))
    note = f"{_note(device, len(inputs), plan, attention_kernel(pruned))}, dense and pruned in turn"
    return {**dict(zip(_FIELDS, found, strict=True)), **spread, "memory_encoder_mib": memory, "seconds_note": note}


@torch.inference_mode()
def seconds_alone(whole: Step, inputs: Sequence[Any], device: torch.device, plan: SpeedPlan | None = None) -> dict[str, Any]:
    """Time a model that has no dense counterpart on each input.

    Returns:
        seconds_total (median, batch 1; None without inputs) and seconds_note.
    """
    if not inputs:
        return {"seconds_total": None, "seconds_note": _NO_IMAGES}
    plan, timer = plan or SpeedPlan(), timed_by(device)
    with one_thread(device), precision(device, plan.dtype):
        for _ in range(plan.warmup):
            whole(inputs[0])
        times = [timer(partial(whole, record)) for record in inputs for _ in range(plan.repeats)]
    return {"seconds_total": median(times), "seconds_note": _note(device, len(inputs), plan)}


def untimed(pruned: PrunedViT) -> str:
    """Return why the speed of a model is not measured, or "" if it is."""
    if pruned.execution == "masked":
        return "masked execution is not timed"
    drops = all(selector.saves_computation for selector in pruned.selectors.values())
    return "" if drops else "not timed: what the selector switches off is computed all the same"


def attention_kernel(pruned: PrunedViT) -> str:
    """Return the name of the attention that the blocks of a model run: torch's fused one, timm's explicit one, or `mixed`."""
    fused = {block.fused for block in pruned.family.blocks}
    return "mixed attention" if len(fused) > 1 else "fused attention" if fused == {True} else "explicit attention"


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first and the third quartile of one or more values."""
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return [first, third]


def _note(device: torch.device, images: int, plan: SpeedPlan, kernel: str = "") -> str:
    how = ("CUDA events" if device.type == "cuda" else "CPU seconds of one thread") + (f", {kernel}" if kernel else "")
    times = f" x {plan.repeats} passes after {plan.warmup} to warm up" if plan.repeats > 1 else ""
    return f"{how}, {plan.dtype}, batch 1, median of {images} images{times}"


@torch.inference_mode()
def seconds_in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, warmup: int = 3) -> dict[str, list[float]]:
    """Return the seconds of each call, one a round; in each round all run in turn, so that a slow moment affects all alike.

    Args:
        calls: Calls by name.
        rounds: Number of rounds.
        device: The device that runs them.
        warmup: Runs of each call that do not count.
    """
    timer, seconds = timed_by(device), {name: [] for name in calls}
    with one_thread(device):
        for call in [*calls.values()] * warmup:
            call()
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timer(call))
    return seconds


def timed_by(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """Return the function that times a call on a device, in seconds: by CUDA events, or by the CPU time of this thread."""
    return _cuda_seconds if device.type == "cuda" else _thread_seconds


def _thread_seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of this thread. A wall clock would depend on other work of the machine."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def _cuda_seconds(call: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Return the context in which a model runs in one of `DTYPES`, or in `half`: float16 on a GPU, where autocast has it, else float32."""
    dtype = ("float16" if device.type == "cuda" else "float32") if dtype == HALF else dtype
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Keep all work on the calling thread, because thread time counts only that one."""
    threads = torch.get_num_threads()
    if device.type != "cuda":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
