"""Times ratios that a busy machine disturbs little: CPU time of one thread, calls interleaved, the median of each round's own ratio."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune.utils import console

Call = Callable[[], Any]
LEAST = 0.02  # least seconds of one timing; shorter calls are repeated
LONG = 1.0  # seconds of a long call; of shorter ones, whose ratios scatter more, there are more rounds
MOST = 5  # times as many rounds


@dataclass(frozen=True)
class Spread:
    """Holds the median and quartiles of values, one a round, and the number of rounds."""

    median: float
    low: float
    high: float
    rounds: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of values, one a round."""
        low, middle, high = torch.tensor(values, dtype=torch.double).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.double)).tolist()
        return cls(middle, low, high, len(values))

    @property
    def iqr(self) -> float:
        """Return the interquartile range."""
        return self.high - self.low


@torch.inference_mode()
def interleaved(calls: Mapping[str, Call], rounds: int, what: str) -> dict[str, list[float]]:
    """Return CPU seconds of each call, one a round.

    In each round all calls run in turn, so that a slow moment affects all alike, and in every other round the last comes first.

    Args:
        calls: Calls by name. Each runs twice first, to warm up and to find how often it must repeat to be timed well.
        rounds: Least number of rounds; calls that take less than a second in the mean are given up to five times as many.
        what: Text beside the progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with one_thread():
        repeats, took = {}, 0.0
        for name, call in calls.items():
            _seconds(call, 1)
            once = max(_seconds(call, 1), 1e-6)
            repeats[name], took = max(1, round(LEAST / once)), took + max(once, LEAST)
        more = min(MOST, max(1.0, LONG * len(calls) / took))
        for number in console.progress(range(round(rounds * more)), what):
            for name in list(calls)[:: -1 if number % 2 else 1]:
                seconds[name].append(_seconds(calls[name], repeats[name]))
    return seconds


def ratio(top: Sequence[float], bottom: Sequence[float], scale: float = 1.0) -> Spread:
    """Return the spread of scale * top / bottom, round by round."""
    return Spread.of([scale * a / b for a, b in zip(top, bottom, strict=True)])


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep all work on the calling thread, because only its time is counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds(call: Call, repeats: int) -> float:
    begin = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - begin) / repeats
