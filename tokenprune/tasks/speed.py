"""Seconds an image of the encoder and of the whole model, and the encoder's gain over the dense one, measured side by side."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch

from tokenprune.engine import PrunedViT, prune

Step = Callable[[Any], Any]


@torch.inference_mode()
def seconds_per_image(
    pruned: PrunedViT,
    whole: Step,
    inputs: Sequence[tuple[Any, Any]],
    device: torch.device,
    alone: Callable[[Any], Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Time encoder, dense encoder and whole model on each input in turn, so that a slow moment of the machine hits all alike.

    Args:
        pruned: the encoder, in eval mode; the dense one is its own backbone with nothing dropped, through the same engine.
        whole: the whole model. inputs: per image what encoder and whole model take; the first is also the warm-up.
        alone: of an image, the call that is the encoder's part of the whole (an adapter changes the tokens on the way, and so how many
            are kept); None: the encoder on the image.

    Returns:
        seconds_encoder, seconds_total (medians over the images, batch 1), speedup_encoder (median of the images' own ratios of dense to
        pruned) and seconds_note, which says how they were taken. All None under masked execution, which computes what it drops.
    """
    if pruned.execution == "masked":
        return {"seconds_encoder": None, "seconds_total": None, "speedup_encoder": None, "seconds_note": "masked execution is not timed"}
    timer = _cuda_seconds if device.type == "cuda" else _thread_seconds
    dense, alone = prune(pruned.backbone), alone or (lambda image: partial(pruned.encode, image))
    with _one_thread(device):
        rounds = [
            (timer(alone(image)), timer(partial(dense.encode, image)), timer(partial(whole, record)))
            for image, record in (inputs[0], *inputs)
        ][1:]
    how = "CUDA events" if device.type == "cuda" else "CPU seconds of one thread"
    return {
        "seconds_encoder": median(mine for mine, _, _ in rounds),
        "seconds_total": median(total for _, _, total in rounds),
        "speedup_encoder": median(full / mine for mine, full, _ in rounds),
        "seconds_note": f"{how}, batch 1, median of {len(inputs)} images, dense and pruned in turn",
    }


def _thread_seconds(step: Callable[[], Any]) -> float:
    """CPU seconds of this thread: wall clocks swing with whatever else the machine does."""
    begin = time.thread_time()
    step()
    return time.thread_time() - begin


def _cuda_seconds(step: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Thread time only counts the calling thread, so all work must stay on it."""
    threads = torch.get_num_threads()
    if device.type != "cuda":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
