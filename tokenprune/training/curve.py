"""Averages losses by name, and keeps how those of a training fell: a mean over each hundredth of its steps."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.utils.files import atomic_write

POINTS = 100


def mean_losses(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each loss over the parts that have it, steps or processes; one NaN or infinity makes it NaN or infinite."""
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


class LossCurve:
    """Averages losses over windows of equal length, at most `POINTS` of them.

    Args:
        iterations: Steps of the whole training, >= 0.

    Attributes:
        points: One mapping a finished window: `iteration`, the number of steps done at its end, and the mean of each loss by name.
    """

    def __init__(self, iterations: int) -> None:
        self._iterations, self._every = iterations, max(1, math.ceil(iterations / POINTS))
        self._open: list[dict[str, float]] = []
        self.points: list[dict[str, float]] = []

    def add(self, done: int, losses: Mapping[str, float]) -> None:
        """Take the losses of a step.

        Args:
            done: Steps done, this one included.
            losses: By name, see `mean_losses`.
        """
        self._open.append(dict(losses))
        if done % self._every == 0 or done == self._iterations:
            self.points.append({"iteration": done, **mean_losses(self._open)})
            self._open = []

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"points": list(self.points), "open": list(self._open)}

    def resume(self, saved: Mapping[str, Any] | None) -> None:
        """Go on from what `state` returned; from nothing where a checkpoint is older than this class."""
        self.points, self._open = ([dict(entry) for entry in saved[name]] for name in ("points", "open")) if saved else ([], [])


def write_curve(path: Path, points: Sequence[Mapping[str, float]]) -> None:
    """Write points as CSV: a column `iteration` and one for each loss, empty where a window has none of it."""
    names = list(dict.fromkeys(name for point in points for name in point))

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({name: value if name == "iteration" else f"{value:.6g}" for name, value in point.items()} for point in points)

    atomic_write(path, write)
