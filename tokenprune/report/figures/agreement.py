"""Draws how far selectors agree: every pair of pruned rows of a sweep, on the same pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, names_of, pruned_rows
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

ALL = "all"  # in the column `block`: the mean over blocks in which at least one of the two prunes
_KINDS = {"rank": "rank correlation of how many blocks use a token", "overlap": "overlap (IoU) of the sets kept by a block"}


@register("report", "agreement")
@dataclass(frozen=True)
class Agreement(FigureReport):
    """Draws how far each pair of pruned rows agrees: Spearman's correlation of token usage, and IoU of the sets kept by each block.

    Args:
        images: Number of validation pictures that are averaged over, from the first.
    """

    images: int = 32

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write agreement.png and agreement.csv (first, second, block, overlap, by_chance, rank_correlation, pictures)."""
        from tokenprune.report.figures.shared.panels import save

        rows = pruned_rows(sweep, 2, "agreement: it compares two pruned rows or more that are ok", "sweep over more methods")
        names = names_of(rows)
        usages = {name: _usages(sweep, row, self.images) for name, row in zip(names, rows, strict=True)}
        table = compared(usages)
        console.say(in_words(table))
        title = f"{sweep.name}: do selectors agree? Mean of {table['pictures'].max()} pictures"
        return save(draw(table, names, title), sweep.folder, "agreement", table)


def _usages(sweep: Sweep, row: Mapping[str, Any], images: int) -> "list[Tensor]":
    return [picture.used.flatten(1) for picture in load(sweep, row).pictures(range(images), predict=False)]


def compared(usages: "Mapping[str, Sequence[Tensor]]") -> "pd.DataFrame":
    """Return a row for each pair and block, and one for each pair over all blocks (`ALL`); only the latter has the rank correlation.

    Args:
        usages: For each name, the usage (L,N) bool of each picture, in the same order for all names.

    Raises:
        TokenPruneError: Rows saw the same picture on different grids or with different depths.
    """
    import numpy as np
    import pandas as pd

    from tokenprune.measure.agreement import chance, overlap, usage_correlation

    names = list(usages)
    shapes = {name: [tuple(used.shape) for used in pictures] for name, pictures in usages.items()}
    other = [name for name in names if shapes[name] != shapes[names[0]]]
    if other:
        pair = f"{names[0]} and {other[0]}"
        raise TokenPruneError(f"agreement: {pair} see pictures on different grids or have different depths; allowed: rows of one backbone")
    ranks = np.stack([usage_correlation(same) for same in zip(*usages.values(), strict=True)])
    rows = []
    for (i, first), (j, second) in combinations(enumerate(names), 2):
        pairs = list(zip(usages[first], usages[second], strict=True))
        shared, luck = (np.stack([measure(a, b).numpy() for a, b in pairs]) for measure in (overlap, chance))
        rows.append((first, second, ALL, _mean(shared), _mean(luck), _mean(ranks[:, i, j]), len(pairs)))
        by_block = enumerate(zip(shared.T, luck.T, strict=True))
        rows += [(first, second, block, _mean(values), _mean(random), None, len(pairs)) for block, (values, random) in by_block]
    return pd.DataFrame(rows, columns=["first", "second", "block", "overlap", "by_chance", "rank_correlation", "pictures"])


def _mean(values: "np.ndarray") -> float:
    known = values[values == values]
    return float(known.mean()) if len(known) else float("nan")


def in_words(table: "pd.DataFrame") -> str:
    """Return a sentence that names the pair that agrees most and the pair that agrees least."""
    pairs = table[table["block"] == ALL].dropna(subset=["overlap"]).sort_values("overlap", ascending=False)
    if not len(pairs):
        return "agreement: no block of these rows prunes"
    ends = pairs.iloc[[0, -1]] if len(pairs) > 1 else pairs
    return "agreement: " + "; ".join(_said(pair) for _, pair in ends.iterrows())


def _said(pair: "pd.Series") -> str:
    return f"{pair['first']} and {pair['second']} share {pair['overlap']:.0%} of their kept tokens (chance {pair['by_chance']:.0%})"


def draw(table: "pd.DataFrame", names: Sequence[str], title: str) -> "Figure":
    """Return the figure: one grid for each kind of agreement, names by names, with the numbers written in."""
    import numpy as np

    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, new_figure

    size = len(names)
    figure = new_figure(3.0 + 1.5 * max(size, 3), 2.2 + 0.55 * max(size, 3), title)
    pairs = table[table["block"] == ALL]
    limits = {"rank": (-1, 1, "RdBu"), "overlap": (0, 1, "viridis")}
    for axis, (kind, words) in zip(figure.subplots(1, 2, sharey=True), _KINDS.items(), strict=True):
        grid = np.eye(size)
        for _, pair in pairs.iterrows():
            place = names.index(pair["first"]), names.index(pair["second"])
            grid[place] = grid[place[::-1]] = pair["rank_correlation" if kind == "rank" else "overlap"]
        low, high, colours = limits[kind]
        axis.imshow(grid, vmin=low, vmax=high, cmap=colours)
        for (line, column), value in np.ndenumerate(grid):
            dark = abs(value) > 0.6 if kind == "rank" else value < 0.5
            axis.text(column, line, "—" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=SMALL,
                      color="white" if dark else "black")  # fmt: skip
        axis.set_xticks(range(size), names, rotation=30, ha="right", fontsize=SMALL)
        axis.set_yticks(range(size), names, fontsize=SMALL)
        axis.set_title(words, fontsize=NORMAL)
    return figure
