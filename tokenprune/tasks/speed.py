"""Seconds an image of the encoder and of the whole model, apart, measured side by side."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

Step = Callable[[Any], Any]


@torch.inference_mode()
def seconds_per_image(encoder: Step, whole: Step, inputs: Sequence[tuple[Any, Any]], device: torch.device) -> dict[str, Any]:
    """Time both on each input in turn, so that a slow moment of the machine hits both alike.

    Args:
        encoder, whole: what is timed. inputs: per image what each of them takes; the first is also the warm-up.

    Returns:
        seconds_encoder, seconds_total (medians over the images, batch 1) and seconds_note, which says how they were taken.
    """
    taken: dict[str, list[float]] = {"seconds_encoder": [], "seconds_total": []}
    timer = _cuda_seconds if device.type == "cuda" else _thread_seconds
    with _one_thread(device):
        for i, (image, record) in enumerate([inputs[0], *inputs]):
            times = {"seconds_encoder": timer(encoder, image), "seconds_total": timer(whole, record)}
            if i:
                for name, value in times.items():
                    taken[name].append(value)
    how = "CUDA events" if device.type == "cuda" else "CPU seconds of one thread"
    return {**{name: median(values) for name, values in taken.items()}, "seconds_note": f"{how}, batch 1, median of {len(inputs)} images"}


def _thread_seconds(step: Step, value: Any) -> float:
    """CPU seconds of this thread: wall clocks swing with whatever else the machine does."""
    begin = time.thread_time()
    step(value)
    return time.thread_time() - begin


def _cuda_seconds(step: Step, value: Any) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    step(value)
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
