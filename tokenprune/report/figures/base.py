"""Holds the parts that figures share: checked options, the row they show, and names for titles. It draws no figure itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.reports import Sweep
from tokenprune.utils.settings import check_types

if TYPE_CHECKING:
    from tokenprune.runs.load import Loaded
    from tokenprune.tasks.pictures import Picture


@dataclass(frozen=True)
class FigureReport:
    """Checks the options of a figure when a sweep begins, long before they are used."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: A value has a wrong type or is out of range.
        """
        where = f"reports.{type(self).name}"
        check_types(self, where)
        wrong = []
        if not 0 <= getattr(self, "score", 0) <= 1:
            wrong.append(f"{where}.score is {self.score}; allowed: 0 to 1")
        if not 0 < getattr(self, "cover", 1) <= 1:
            wrong.append(f"{where}.cover is {self.cover}; allowed: above 0 and up to 1, the share of a token's patch")
        if getattr(self, "images", None) is not None and self.images < 1:
            wrong.append(f"{where}.images is {self.images}; allowed: 1 and more, null for the whole validation split")
        if wrong:
            raise InvalidConfig(wrong)


def row_of(sweep: Sweep, method: str) -> Mapping[str, Any]:
    """Return the first finished row of a method.

    Raises:
        TokenPruneError: There is none.
    """
    found = [row for row in sweep.good if row["method"] == method]
    if not found:
        there = ", ".join(dict.fromkeys(f"{row['method']} ({row['status']})" for row in sweep.rows)) or "none"
        raise TokenPruneError(f"there is no finished row of method {method!r} to show; rows: {there}; sweep over method={method} too")
    return found[0]


def pruned_rows(sweep: Sweep, least: int, needed: str, remedy: str) -> list[Mapping[str, Any]]:
    """Return the finished rows that drop tokens.

    Args:
        sweep: The sweep.
        least: Least number of rows that are needed.
        needed: Says in the error which rows are needed.
        remedy: Says in the error how to get them.

    Raises:
        TokenPruneError: There are fewer than `least`; the message also lists the rows that there are.
    """
    return _enough([row for row in sweep.good if row["treatment"] != "none"], sweep, least, needed, remedy)


def dense_rows(sweep: Sweep, needed: str, remedy: str) -> list[Mapping[str, Any]]:
    """Return the finished rows that drop nothing, one or more; arguments and errors are those of `pruned_rows`."""
    return _enough([row for row in sweep.good if row["treatment"] == "none"], sweep, 1, needed, remedy)


def _enough(found: list[Mapping[str, Any]], sweep: Sweep, least: int, needed: str, remedy: str) -> list[Mapping[str, Any]]:
    if len(found) < least:
        there = ", ".join(f"{row['label']} ({row['status']})" for row in sweep.rows) or "none"
        raise TokenPruneError(f"{needed}; rows: {there}; {remedy}")
    return found


def names_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows' labels, with treatment, keep rate and seed if labels alone do not distinguish them."""
    parts = [[row["label"], row["treatment"], row["config"]["schedule"].get("keep_rate"), f"seed {row['seed']}"] for row in rows]
    kept = [0] + [i for i in (1, 2, 3) if len({part[i] for part in parts}) > 1]
    names = [", ".join(str(part[i]) for i in kept if part[i] is not None) for part in parts]
    labels = [part[0] for part in parts]
    short = labels if len(set(labels)) == len(labels) else names
    return short if len(set(short)) == len(short) else [f"{name} ({row['key'][:4]})" for name, row in zip(short, rows, strict=True)]


def load(sweep: Sweep, row: Mapping[str, Any]) -> "Loaded":
    """Return the model of a row of the sweep (see `runs.load.load_row`)."""
    from tokenprune.runs.load import load_row

    return load_row(row, sweep.results_dir)


def shown(loaded: "Loaded", numbers: Sequence[int], predict: bool = True) -> "list[Picture]":
    """Return pictures of the validation split.

    Raises:
        TokenPruneError: The split has none of these.
    """
    pictures = list(loaded.pictures(numbers, predict))
    if not pictures:
        raise TokenPruneError(f"pictures {list(numbers)}: the validation split has none of them; give indices from 0 on")
    return pictures


def name_of(row: Mapping[str, Any]) -> str:
    """Return a row's name for a title, such as "SViT, keep rate 0.7, seed 0, on shapes (scale demo)"."""
    rate = row["config"]["schedule"].get("keep_rate")
    parts = [row["label"], "" if rate is None else f"keep rate {rate:g}", f"seed {row['seed']}"]
    return ", ".join(part for part in parts if part) + f", on {row['data']} (scale {row['scale']})"
