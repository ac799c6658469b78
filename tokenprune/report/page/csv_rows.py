"""Result rows that were written as a CSV table (`table.csv`), read back line by line: a bad line costs itself and not the table."""

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
    "commit", "dirty", "tokenprune", "status", "reason", "size", "configuration", "rest", "notes",
)  # fmt: skip
_FACTS = ("label", "method", "treatment", "scale", "task", "data", "cls", "execution", "size", "keep_rate", "device")


def holds_rows(path: Path) -> bool:
    """Tell from its first line whether a CSV file is a table of result rows."""
    try:
        with path.open(newline="") as file:
            return set(_NEEDED) <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the rows of a table, flat, and of each line that is none (which, why)."""
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
    """One line with numbers as numbers; raises ValueError with what is wrong."""
    if None in line or None in line.values():
        raise ValueError("has more or fewer fields than the head of the table")
    if line["status"] not in STATUSES:
        raise ValueError(f"status is {line['status']!r}, allowed: {', '.join(STATUSES)}")
    row = {name: value if name in _TEXT or name.endswith("_note") else _number(name, value) for name, value in line.items()}
    row = {**{name: "" for name in _TEXT}, "threads": math.nan, "keep_rate": math.nan, **row}
    if row["seed"] != row["seed"]:
        raise ValueError("has no seed")
    # rows from before the column existed: as `expected.size_of` has it
    return {**row, "seed": int(row["seed"]), "size": row["size"] or ("" if row["scale"] == "paper" else "tiny")}


def _number(name: str, value: str) -> float | str:
    try:
        return float(value) if value else math.nan
    except ValueError:
        if name.startswith("paper_"):
            return value  # a word may stand in a paper's table
        raise ValueError(f"{name} is {value!r}, expected a number") from None


def told_apart(data: "pd.DataFrame") -> "pd.DataFrame":
    """Return rows with `configuration` and `rest` (see `tables.rows_frame`), where the table did not hold them.

    They then are what the columns say; of rows that agree in all of it and in their seed, the n-th of each seed belong together.
    """
    if not len(data):
        return data
    turn = data.groupby([*_FACTS, "seed"], sort=False, dropna=False).cumcount().astype(str)
    facts = {"configuration": [*_FACTS], "rest": [name for name in _FACTS if name != "treatment"]}
    made = {name: ["|".join(map(str, line)) for line in data[of].assign(turn=turn).itertuples(index=False)] for name, of in facts.items()}
    return data.assign(**{name: data[name].where(data[name] != "", made[name]) for name in made})
