"""Lists the numbers that the axes and columns of the page can show, with their names, units and directions."""

from dataclasses import dataclass

import pandas as pd

from tokenprune.report.tables.scores import SCORES


@dataclass(frozen=True)
class Metric:
    """Holds a number of a row that can be shown.

    Attributes:
        name: Its name on the page.
        title: Its name for people, with the unit.
        short: The same for the head of a column.
        less: Whether less of it is better.
        score: Whether it is an accuracy; the others are costs, which devices do not share unless `counted`.
        column: The column of a table of rows.
        factor: What the column's value is multiplied by.
        inverse: Whether the value is one over it.
        digits: Significant digits that are shown.
        counted: Whether it is counted and not timed, so that it is the same on every device.
    """

    name: str
    title: str
    short: str
    less: bool
    score: bool = False
    column: str = ""
    factor: float = 1.0
    inverse: bool = False
    digits: int = 3
    counted: bool = False

    def of(self, value: object) -> float | None:
        """Return the number that a cell of the column stands for; None if it holds none."""
        number = pd.to_numeric(value, errors="coerce")  # type: ignore[call-overload]
        if pd.isna(number) or (self.inverse and not number):
            return None
        return float(self.factor / number if self.inverse else self.factor * number)


METRICS = (
    *(Metric(name, title, title, less=False, score=True, column=name, digits=4) for name, title in SCORES),
    Metric("gmac", "encoder GMAC", "GMAC", less=True, column="gmac_total", counted=True),
    Metric("kept", "kept share of tokens", "kept", less=True, column="kept_share", counted=True),
    Metric("speedup", "encoder speed-up over dense, batch 1", "speed-up", less=False, column="speedup_encoder"),
    Metric("latency_encoder", "encoder latency (ms an image, batch 1)", "encoder ms", less=True, column="seconds_encoder", factor=1000),
    Metric("latency", "whole-model latency (ms an image, batch 1)", "whole ms", less=True, column="seconds_total", factor=1000),
    Metric("images_s_1", "images/s, batch 1, whole model", "images/s, b1", less=False, column="seconds_total", inverse=True),
    Metric("images_s", "images/s in batches, whole model", "images/s", less=False, column="images_per_second"),
    Metric("speedup_batch", "speed-up over dense in batches", "speed-up, batch", less=False, column="speedup_batch"),
    Metric("memory", "peak memory of the encoder (MiB an image)", "MiB", less=True, column="memory_encoder_mib"),
    Metric("parameters", "parameters (millions)", "M par.", less=True, column="parameters", factor=1e-6, counted=True),
)
