"""Reads what was found for the validation pictures of each row: classes of single images, or metrics over resamples of the pictures."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenprune.engine.schedule import TARGET
from tokenprune.errors import TokenPruneError
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import row_folder

if TYPE_CHECKING:
    from tokenprune.measure.paired import Paired
    from tokenprune.measure.resamples import PairedResamples, Resampled

Row = Mapping[str, Any]
Budget = tuple[str, int]  # the budget in words, and the seed


@dataclass(frozen=True, eq=False)
class Judged(ABC):
    """Holds a row with what was found for its validation pictures.

    Args:
        row: The row.
        name: Its label, and its treatment if tokens are dropped; with the start of its key where another row of its budget has the same.
    """

    row: Row
    name: str
    columns: ClassVar[tuple[str, ...]]  # of `facts`

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics that rows are compared by, the most important one first."""

    @property
    @abstractmethod
    def pictures(self) -> int:
        """Return the number of validation pictures."""

    @abstractmethod
    def score(self, metric: str) -> float:
        """Return a metric in points."""

    @abstractmethod
    def saw_the_same(self, other: Any) -> bool:
        """Tell whether another row of this class was judged on the same pictures."""

    @abstractmethod
    def against(self, other: Any, metric: str) -> "Paired | PairedResamples":
        """Return the comparison with another row on the same pictures."""

    @abstractmethod
    def facts(self, other: Any, metric: str, pair: Any) -> dict[str, Any]:
        """Return the columns of a comparison that only rows of this class have."""


@dataclass(frozen=True, eq=False)
class Answers(Judged):
    """Holds a row with the class that it predicts for each image.

    Args:
        predicted: The predicted class of each validation image, (n,).
        true: The true one, (n,).
    """

    predicted: Any
    true: Any
    columns = ("first_top1", "second_top1", "images", "first_only", "second_only")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return top-1."""
        return ("top1",)

    @property
    def pictures(self) -> int:
        """Return the number of validation images."""
        return len(self.true)

    @property
    def right(self) -> Any:
        """Return whether each image is classified right, (n,) bool."""
        return self.predicted == self.true

    def score(self, metric: str) -> float:
        """Return the top-1."""
        return 100 * self.right.double().mean().item()

    def saw_the_same(self, other: "Answers") -> bool:
        """Tell whether the true classes are the same, one by one."""
        return len(self.true) == len(other.true) and bool((self.true == other.true).all())

    def against(self, other: "Answers", metric: str) -> "Paired":
        """Return the comparison image by image."""
        from tokenprune.measure.paired import compared

        return compared(self.right, other.right)

    def facts(self, other: "Answers", metric: str, pair: "Paired") -> dict[str, Any]:
        """Return both scores and the numbers of images that one row alone has right."""
        scores = (round(self.score(metric), 3), round(other.score(metric), 3))
        return dict(zip(self.columns, (*scores, pair.images, pair.first_only, pair.second_only), strict=True))


@dataclass(frozen=True, eq=False)
class Resamples(Judged):
    """Holds a row with its metrics over resamples of the validation pictures.

    Args:
        found: The metrics.
    """

    found: "Resampled"
    columns = ("metric", "first_score", "second_score", "pictures")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that were resampled."""
        return tuple(self.found.values)

    @property
    def pictures(self) -> int:
        """Return the number of validation pictures."""
        return self.found.pictures

    def score(self, metric: str) -> float:
        """Return a metric on all pictures."""
        return self.row["metrics"][metric]

    def saw_the_same(self, other: "Resamples") -> bool:
        """Tell whether the resamples hold the same pictures with the same labels."""
        return self.found.draws == other.found.draws

    def against(self, other: "Resamples", metric: str) -> "PairedResamples":
        """Return the comparison over the resamples."""
        from tokenprune.measure.resamples import compared

        return compared(self.score(metric) - other.score(metric), self.found.values[metric], other.found.values[metric])

    def facts(self, other: "Resamples", metric: str, pair: "PairedResamples") -> dict[str, Any]:
        """Return the metric, both scores and the number of pictures."""
        scores = (round(self.score(metric), 3), round(other.score(metric), 3))
        return dict(zip(self.columns, (metric, *scores, self.pictures), strict=True))


def judged_rows(sweep: Sweep) -> tuple[list[Judged], list[str]]:
    """Return the finished rows that may be compared, and the labels of those that have no file of their pictures.

    Raises:
        TokenPruneError: Rows saw different pictures.
    """
    found = [(row, read(row, sweep.results_dir)) for row in sweep.good]
    rows = [one for _, one in found if one is not None]
    other = [one.row["label"] for one in rows if type(one) is not type(rows[0]) or not rows[0].saw_the_same(one)]
    if other:
        raise TokenPruneError(f"paired: {other[0]} and {rows[0].row['label']} saw other images; allowed: rows of one validation split")
    return _told_apart(rows), list(dict.fromkeys(row["label"] for row, one in found if one is None))


def read(row: Row, results_dir: Path) -> Judged | None:
    """Return a row with what was found for its pictures; None if it has no file of them."""
    from tokenprune.measure.resamples import Resampled
    from tokenprune.runs.row import PER_IMAGE, RESAMPLED

    name = row["label"] if row["treatment"] == "none" else f"{row['label']}, {row['treatment']}"
    images, resamples = (_tensors(row_folder(results_dir, row["key"]) / file) for file in (PER_IMAGE, RESAMPLED))
    if {"predicted", "true"} <= images.keys():
        return Answers(row, name, images["predicted"], images["true"])
    known = {"pictures", "draws"} <= resamples.keys() and resamples.keys() - {"pictures", "draws"} <= row["metrics"].keys()
    return Resamples(row, name, Resampled.of_tensors(resamples)) if known else None


def _tensors(path: Path) -> Mapping[str, Any]:
    from tokenprune.utils.checkpoints import read_weights

    return read_weights(path) if path.is_file() else {}


def _told_apart(rows: Sequence[Judged]) -> list[Judged]:
    places = Counter((budget_of(one.row), one.row["seed"], one.name) for one in rows)
    twice = {place for place, count in places.items() if count > 1}
    return [
        replace(one, name=f"{one.name} ({one.row['key'][:4]})") if (budget_of(one.row), one.row["seed"], one.name) in twice else one
        for one in rows
    ]


def by_budget(rows: Sequence[Judged]) -> dict[Budget, list[Judged]]:
    """Return the pruned rows of each budget and seed, in the order of the sweep."""
    found: dict[Budget, list[Judged]] = {}
    for one in rows:
        if one.row["treatment"] != "none":
            found.setdefault((budget_of(one.row), one.row["seed"]), []).append(one)
    return found


def dense_of(rows: Sequence[Judged]) -> dict[int, list[Judged]]:
    """Return the rows of each seed that drop nothing, in the order of the sweep."""
    found: dict[int, list[Judged]] = {}
    for one in rows:
        if one.row["treatment"] == "none":
            found.setdefault(one.row["seed"], []).append(one)
    return found


def budget_of(row: Row) -> str:
    """Return the budget of a row in words: its target of GMAC, else its keep rate, else none of its own."""
    schedule = row["config"]["schedule"]
    if schedule.get(TARGET) is not None:
        return f"{schedule[TARGET]} GMAC" if isinstance(schedule[TARGET], (int, float)) else f"{schedule[TARGET]} of the dense GMAC"
    rate = schedule.get("keep_rate")
    return "published schedules" if rate is None else f"keep rate {rate:g}"


def gmac_of(one: Judged) -> str:
    """Return the encoder's GMAC of a row in words, "" if they were not measured."""
    gmac = one.row["cost"].get("gmac_total", math.nan)
    return "" if math.isnan(gmac) else f"{gmac:.3g}"
