"""Reads the numbers of a claim: of measured lines by seed, and of a paper's printed ones."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.errors import DatasetError
from tokenprune.report.claims.declared import Measure, Side
from tokenprune.report.page.csv_rows import holds_rows
from tokenprune.report.tables.expected import MATCH, Expected

SETTING = ("scale", "task", "data", "size", "device")  # both sides of a comparison agree in these, unless a side names them
_EMBEDDED = "shapes"  # other data are named by their file, since `imagefolder` may be any images
Values = dict[int, float]


@dataclass(frozen=True)
class Lines:
    """Holds lines of one measured file that may be compared.

    Attributes:
        path: The file.
        data: The lines.
        rows: Whether a line is a result row, one a seed.
        size: Size of the model; "" if the file does not say or a side chooses it.
        named: The data and the scale in words.
    """

    path: Path
    data: pd.DataFrame
    rows: bool
    size: str
    named: str

    def values(self, side: Side, column: str) -> Values:
        """Return the value of a side by seed; lines that are no rows are averaged, and without a column `seed` count as seed 0.

        Raises:
            DatasetError: Several rows of one seed are on the side.
        """
        column = side.column or column
        found = self._chosen(side.where)
        if column not in found or found.empty:
            return {}
        found = found.assign(**{column: pd.to_numeric(found[column], errors="coerce")}).dropna(subset=[column])
        seeds = found["seed"].astype(int) if "seed" in found else pd.Series(0, index=found.index)
        if self.rows and seeds.duplicated().any():
            raise DatasetError(
                f"{self.path}: {side.words} is several rows of seed {seeds[seeds.duplicated()].iloc[0]}; name a column in which they"
                " differ, such as keep_rate or cls"
            )
        means = {seed: float(found.loc[seeds == seed, column].mean()) for seed in seeds.unique()}
        if side.less is None:
            return means
        gone = self.values(side.less, column)
        return {seed: value - gone[seed] for seed, value in means.items() if seed in gone}

    def _chosen(self, where: Mapping[str, Any]) -> pd.DataFrame:
        found = self.data
        for key, wanted in where.items():
            column = "label" if key == "method" and "label" in found else key
            if column not in found:
                return found.iloc[:0]
            found = found[found[column].isin(wanted if isinstance(wanted, list) else [wanted])]
        return found


def lines_of(measure: Measure, experiments: Path, chosen: set[str]) -> Iterator[Lines]:
    """Yield the measured lines of an experiment, setting by setting; a file whose rows another file holds as well is left out.

    Args:
        measure: Names the experiment and the file.
        experiments: The folder experiments/ of a checkout.
        chosen: Columns that sides name, in which they may differ.
    """
    files = sorted((experiments / measure.experiment / "measured").rglob(measure.file or "*.csv"))
    if measure.file:
        yield from (Lines(path, _read(path, path.stat().st_mtime_ns), False, "", path.stem) for path in files)
        return
    tables = {path: _rows(path) for path in files if holds_rows(path)}
    keys = {path: set(zip(rows["key"], rows["label"], strict=True)) for path, rows in tables.items()}
    for path, rows in tables.items():
        if not any(keys[path] < other for other in keys.values()):
            yield from _settings(path, rows, [name for name in SETTING if name in rows and name not in chosen])


def _rows(path: Path) -> pd.DataFrame:
    rows = _read(path, path.stat().st_mtime_ns)
    return rows[rows["status"] == "ok"]


@lru_cache
def _read(path: Path, stamp: int) -> pd.DataFrame:
    """Return a CSV file, read once for all claims as long as its time of change, `stamp`, is the same."""
    return pd.read_csv(path)


def _settings(path: Path, rows: pd.DataFrame, columns: list[str]) -> Iterator[Lines]:
    text = rows[columns].fillna("").astype(str)
    for facts, _ in text.groupby(columns, sort=False):
        same = dict(zip(columns, facts, strict=True))
        here = rows[(text == pd.Series(same)).all(axis=1)]
        data, scale = here["data"].iloc[0], here["scale"].iloc[0]
        named = data if path.stem == "table" or data == _EMBEDDED else path.stem
        yield Lines(path, here, True, same.get("size", ""), f"{named.replace('_', ' ')}, {scale}")


def printed(side: Side, measure: Measure, column: str, experiments: Path, size: str = "") -> float:
    """Return the paper's number of a side, NaN if expected.csv has none.

    Args:
        side: The side.
        measure: Names the file and the column.
        column: The measured column.
        experiments: The folder experiments/ of a checkout.
        size: Size of the measured model: its line is taken if the paper has one, else the first.
    """
    if side.value is not None:
        return side.value
    path = experiments / (measure.expected or measure.experiment) / "expected.csv"
    if not path.is_file():
        return math.nan
    lines, name = Expected(path).lines, measure.printed or column
    number = _number(lines, side.where if side.printed is None else side.printed, name, size)
    if measure.over:
        number /= _number(lines, {"method": measure.over}, name, size)
    return number if side.less is None else number - printed(side.less, measure, column, experiments, size)


def _number(lines: list[dict[str, str]], where: Mapping[str, Any], name: str, size: str) -> float:
    found = [line for line in lines if all(_agrees(line.get(key, ""), where[key]) for key in MATCH if key in where)]
    own = [line for line in found if line.get("size") == size]
    try:
        return float((own or found)[0].get(name) or math.nan)
    except (IndexError, ValueError):  # no line, or a word such as "diverged"
        return math.nan


def _agrees(cell: str, wanted: Any) -> bool:
    """Tell if a cell of expected.csv stands for a value; an empty cell stands for any."""
    if cell == "" or isinstance(wanted, list):
        return cell == "" or any(_agrees(cell, one) for one in wanted)
    return math.isclose(float(cell), wanted) if isinstance(wanted, (int, float)) else cell == str(wanted)
