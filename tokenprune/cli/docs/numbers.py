"""Turns the content of experiments/NAME/measured into the tables of docs/experiments.md: a few columns of the committed rows."""

from pathlib import Path

import pandas as pd

from tokenprune.report.page.gather import gather
from tokenprune.report.page.grids import Grid
from tokenprune.report.page.sections import apart, common, table_of
from tokenprune.report.tables.scores import TITLES

_FACTS = ("Method", "Treatment", "size", "CLS", "keep_rate", "seeds", "seed")
_COSTS = ("GMAC encoder", "kept share", "encoder speed-up", "speed-up in batches", "status")
_SCORES = tuple(TITLES.values())
_SHOWN = (*_FACTS, *_SCORES, *_COSTS, *(f"paper {title}" for title in _SCORES))  # the files hold further columns


def tables(folder: Path) -> dict[str, str]:
    """Return {experiment: its measured rows as Markdown tables}, one table for each data set, scale, device and execution.

    Args:
        folder: experiments/ of the checkout.
    """
    return {found.name: "\n\n".join(_table(found.name, rows) for _, rows in apart(found.data)) for found in gather(folder).experiments}


def _table(name: str, rows: pd.DataFrame) -> str:
    shown = table_of(name, rows).shown
    grid = Grid.of(shown[[title for title in _SHOWN if title in shown]])
    return f"Measured: {common(rows)}.\n\n{grid.markdown}"
