"""Compares rows on the same pictures, by predictions or resamples that lie beside them, and finds token maps that were written for them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from tokenprune.errors import TokenPruneError
from tokenprune.report.figures.base import names_of
from tokenprune.report.tables.judged_rows import Answers, Judged, read
from tokenprune.runs.run import NONE
from tokenprune.utils import console

if TYPE_CHECKING:
    from tokenprune.report.page.gather import Stored

USAGE_MAP = "usage_map.csv"  # of the report `usage`
_CELL = ["row", "map_row", "map_column", "mean_blocks"]


class Pairs(NamedTuple):
    """Holds the comparisons of lines that were judged on the same pictures, of equal seeds.

    Attributes:
        images: [line, line, seed, images, first only, second only, difference, low, high, p, agreement] of classifiers: the difference of
            top-1, first minus second, in points with its 95 % interval, and the p-value of McNemar's exact test.
        resamples: [line, line, seed, metric, pictures, difference, low, high, p] of other models, over resamples of the pictures.
    """

    images: list[list[Any]]
    resamples: list[list[Any]]


def pairs_of(rows: Sequence[tuple[int, pd.DataFrame]], stored: "Mapping[tuple[str, str], Stored]") -> Pairs:
    """Return the comparisons of lines.

    Args:
        rows: The number of each line, and its rows.
        stored: The rows as they lie on disk.
    """
    from tokenprune.measure.paired import Paired, agreement

    found = Pairs([], [])
    for seed, same in _by_seed(rows, stored).items():
        for (one, a), (other, b) in combinations(same, 2):
            if type(a) is not type(b) or not a.saw_the_same(b):
                continue
            for metric in a.metrics:
                pair = a.against(b, metric)
                gap = [round(n, 3) for n in (pair.difference, *pair.interval)]
                if isinstance(a, Answers) and isinstance(b, Answers) and isinstance(pair, Paired):
                    agrees = round(agreement(a.predicted, b.predicted), 2)
                    found.images.append([one, other, seed, a.pictures, pair.first_only, pair.second_only, *gap, pair.p, agrees])
                elif math.isfinite(gap[1]):
                    found.resamples.append([one, other, seed, metric, a.pictures, *gap, pair.p])
    return found


def _by_seed(rows: Sequence[tuple[int, pd.DataFrame]], stored: "Mapping[tuple[str, str], Stored]") -> dict[int, list[tuple[int, Judged]]]:
    """Return the number of each line with what was found for its pictures, by seed."""
    seen: dict[int, list[tuple[int, Judged]]] = {}
    for number, group in rows:
        for key, device, seed, status in zip(group["key"], group["device"], group["seed"], group["status"], strict=True):
            judged = _read(stored.get((key, device))) if status == "ok" else None
            if judged is not None:
                seen.setdefault(int(seed), []).append((number, judged))
    return seen


def _read(stored: "Stored | None") -> Judged | None:
    if stored is None:
        return None
    try:
        return read(stored.row, stored.results_dir)
    except TokenPruneError as error:  # a broken file must not cost the page
        console.warn(str(error))
        return None


def maps_of(
    rows: Sequence[tuple[int, pd.DataFrame]], stored: "Mapping[tuple[str, str], Stored]", folders: Sequence[Path]
) -> dict[int, list[list[float]]]:
    """Return {line: its mean map, by row and column of the grid} of the lines that the report `usage` drew.

    A name that two lines could have finds no map.

    Args:
        rows: The number of each line, and its rows.
        stored: The rows as they lie on disk.
        folders: Where the report's file may lie. In RESULTS/tables/NAME it is of the rows in RESULTS.
    """
    found: dict[int, list[list[float]]] = {}
    for folder in folders:
        named = list(_names([(number, _in(group, stored, folder)) for number, group in rows]))
        for name, cells in _cells(folder / USAGE_MAP):
            numbers = {number for number, called in named if called == name}
            if len(numbers) == 1:
                grid = cells.pivot(index="map_row", columns="map_column", values="mean_blocks").round(2)
                found.setdefault(numbers.pop(), grid.to_numpy().tolist())
    return found


def _in(group: pd.DataFrame, stored: "Mapping[tuple[str, str], Stored]", folder: Path) -> pd.DataFrame:
    """Return the rows that lie in the results folder of a folder of tables; all if rows were read from tables alone."""
    if not stored:
        return group
    places = [stored.get((key, device)) for key, device in zip(group["key"], group["device"], strict=True)]
    return group[[place is not None and place.results_dir == folder.parents[1] for place in places]]


def _names(rows: Sequence[tuple[int, pd.DataFrame]]) -> Iterator[tuple[int, str]]:
    """Yield the number of the line of each row that prunes, and the name that figures give the row."""
    pruned = [(number, row) for number, group in rows for _, row in group.iterrows() if row["status"] == "ok" and row["treatment"] != NONE]
    rates = [None if pd.isna(row["keep_rate"]) else row["keep_rate"] for _, row in pruned]
    told = [{**row, "config": {"schedule": {"keep_rate": rate}}} for (_, row), rate in zip(pruned, rates, strict=True)]
    yield from zip((number for number, _ in pruned), names_of(told) if told else (), strict=True)


def _cells(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    if not path.is_file():
        return
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        console.warn(f"{path} is no readable table ({error})")
        return
    if set(_CELL) <= set(table.columns):
        yield from ((str(name), cells) for name, cells in table.groupby("row", sort=False))
