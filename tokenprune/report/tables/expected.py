"""Shows the paper's numbers, experiments/<experiment>/expected.csv, beside measured rows.

Columns to match by: method (the row's label), treatment, keep_rate, cls, size (of the backbone). Each may be absent, and an empty cell
matches anything. Columns to show: see `NUMBERS`; a cell may be a word ("diverged"). `source` says where a number is printed and under
which conditions; `note` is a remark for readers. Both go below the table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.backbones.vit import SIZES
from tokenprune.errors import DatasetError

NUMBERS = {
    "top1": ("paper top-1", "{:.1f}"),
    "delta": ("paper delta", "{:+.1f}"),
    "gmacs": ("paper GMAC", "{:.1f}"),
    "gmacs_linear": ("paper linear GMAC", "{:.4g}"),
    "gmacs_pixels": ("paper GMAC with norms and head", "{:.4g}"),
    "parameters": ("paper M parameters", "{:.0f}"),
    "epochs": ("paper epochs", "{:.0f}"),
    "images_per_second": ("paper images/s", "{:.0f}"),
    "speedup": ("paper speed-up", "{:.1f}"),
    "miou": ("paper mIoU", "{:.1f}"),
    "ap_box": ("paper box AP", "{:.1f}"),
    "ap_mask": ("paper mask AP", "{:.1f}"),
    "fps": ("paper FPS", "{:.2f}"),
    "fps_whole": ("paper FPS whole", "{:.2f}"),
    "fps_backbone": ("paper FPS backbone", "{:.2f}"),
    "fps_encoder": ("paper FPS encoder", "{:.1f}"),
    "speedup_encoder": ("paper encoder speed-up", "{:.1f}"),
    "speedup_whole": ("paper whole speed-up", "{:.1f}"),
}
MATCH = ("method", "treatment", "keep_rate", "cls", "size")


def size_of(config: Mapping[str, Any]) -> str:
    """Return tiny, small, ... huge: the backbone's `size`, else the end of its name; tiny for the small models of other scales.

    A timm model that stands for no row of those sizes has none: "".
    """
    backbone = config.get("backbone") or {}
    if backbone.get("size") or (backbone.get("model") and "size" in backbone):
        return str(backbone["size"])
    end = str(backbone.get("name", "")).rsplit("_", 1)[-1]
    return end if end in SIZES else "tiny"


def of_paper(column: str) -> bool:
    """Tell whether a column of a table holds a paper's numbers (`Expected.beside`); `paper_size_note` is about measured ones."""
    return column.startswith("paper_") and column.removeprefix("paper_") in NUMBERS


@dataclass(frozen=True)
class Expected:
    """Reads one file of a paper's numbers."""

    path: Path

    @cached_property
    def lines(self) -> list[dict[str, str]]:
        """Return the lines of the file unchanged.

        Raises:
            DatasetError: There is no such file, or a column is none of those above.
        """
        try:
            lines = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.path} is no readable table of expected numbers ({error})") from error
        allowed = (*MATCH, *NUMBERS, "source", "note")
        unknown = [name for name in lines.columns if name not in allowed]
        if unknown or "method" not in lines.columns:
            wrong = f"unknown column {', '.join(unknown)}" if unknown else "no column method"
            raise DatasetError(f"{self.path}: {wrong}; allowed: {', '.join(allowed)}")
        return lines.to_dict("records")

    @property
    def numbers(self) -> list[str]:
        """Return the columns of numbers that the file has."""
        return [name for name in NUMBERS if self.lines and name in self.lines[0]]

    def of(self, **row: Any) -> dict[str, str]:
        """Return the most specific line for a row given by `MATCH`; {} if the paper has none."""
        found = [line for line in self.lines if all(_matches(line.get(name, ""), row.get(name)) for name in MATCH)]
        return max(found, key=lambda line: sum(bool(line.get(name)) for name in MATCH), default={})

    def number(self, name: str, **row: Any) -> float | str:
        """Return one number of a row, the word in its place, or NaN."""
        cell = self.of(**row).get(name, "")
        try:
            return float(cell) if cell else math.nan
        except ValueError:
            return cell

    def beside(self, data: pd.DataFrame) -> pd.DataFrame:
        """Return rows (`tables.rows_frame`) with `paper_` columns."""
        found = [self.of(**row) for row in _keys(data)]
        columns = {f"paper_{name}": [self.number(name, **row) for row in _keys(data)] for name in self.numbers}
        return data.assign(**columns) if any(found) else data

    def legend(self, data: pd.DataFrame) -> str:
        """Return the sources of the numbers beside these rows, and notes on them; "" if there are none."""
        found = [line for row in _keys(data) if (line := self.of(**row))]
        sources = list(dict.fromkeys(line["source"] for line in found if line.get("source")))
        notes = list(dict.fromkeys(f"{line['method']}, paper: {line['note']}" for line in found if line.get("note")))
        lines = [f"Paper: {'; '.join(sources)}."] if sources else []
        return "\n\n".join([*lines, *(f"{note}." for note in notes)])


def _keys(data: pd.DataFrame) -> list[dict[str, Any]]:
    return data.rename(columns={"method": "preset", "label": "method"})[list(MATCH)].to_dict("records")


def _matches(wanted: str, got: Any) -> bool:
    if wanted == "" or got is None:
        return wanted == ""
    if isinstance(got, (int, float)):
        return math.isclose(float(wanted), got)
    return wanted == got
