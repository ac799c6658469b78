"""Reads result rows back from a CSV table (`table.csv`) line by line; a bad line is left out and the other lines are kept."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.runs.results import STATUSES

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("key", "label", "method", "treatment", "seed", "status")
_TEXT = (
    "key", "label", "method", "treatment", "scale", "task", "data", "cls", "execution", "python", "torch", "timm", "detectron2", "device",
    "commit", "dirty", "tokenprune", "status", "reason", "size", "setting", "configuration", "rest", "notes",
    "made", "folder",
)  # fmt: skip
_FACTS = ("label", "method", "treatment", "scale", "task", "data", "cls", "execution", "size", "keep_rate", "device")


def holds_rows(path: Path) -> bool:
    """Tell by its first line if a CSV file is a table of result rows."""
    try:
        with path.open(newline="") as file:
            return set(_NEEDED) <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the rows of a table, flat, and for each line that is no row the pair (line, reason)."""
    rows, problems = [], []
    try:
        with path.open(newline="") as file:
            lines = csv.DictReader(file)
            for line in lines:
                try:
                    rows.append(_row(line))
                except ValueError as error:
                    problems.append((f"line {lines.line_num}", str(error)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(("the file", f"is no readable table ({error})"))
    return rows, problems


def _row(line: Mapping[Any, Any]) -> dict[str, Any]:
    """Return one line with numbers as numbers.

    Raises:
        ValueError: The line is no row; the message says why.
    """
    if None in line or None in line.values():
        raise ValueError("has more or fewer fields than the head of the table")
    if line["status"] not in STATUSES:
        raise ValueError(f"status is {line['status']!r}, allowed: {', '.join(STATUSES)}")
    row = {name: value if name in _TEXT or name.endswith("_note") else _number(name, value) for name, value in line.items()}
    row = {**{name: "" for name in _TEXT}, "threads": math.nan, "keep_rate": math.nan, **row}
    if row["seed"] != row["seed"]:
        raise ValueError("has no seed")
    # rows from before the column existed get the size that `expected.size_of` gives
    return {**row, "seed": int(row["seed"]), "size": row["size"] or ("" if row["scale"] == "paper" else "tiny")}


def _number(name: str, value: str) -> float | str:
    try:
        return float(value) if value else math.nan
    except ValueError:
        if name.startswith("paper_"):
            return value  # a word may stand in a paper's table
        raise ValueError(f"{name} is {value!r}, expected a number") from None


def told_apart(data: "pd.DataFrame") -> "pd.DataFrame":
    """Return rows with `configuration` and `rest` (see `tables.rows_frame`), also if the table did not hold them.

    Then they are made of the other columns. Of rows that agree in all of these and in their seed, the n-th of each seed belong together.
    """
    if not len(data):
        return data
    turn = data.groupby([*_FACTS, "seed"], sort=False, dropna=False).cumcount().astype(str)
    facts = {"configuration": [*_FACTS], "rest": [name for name in _FACTS if name != "treatment"]}
    made = {name: ["|".join(map(str, line)) for line in data[of].assign(turn=turn).itertuples(index=False)] for name, of in facts.items()}
    return data.assign(**{name: data[name].where(data[name] != "", made[name]) for name in made})
