"""Draws the cost of choosing tokens, against choosing at random (Cropr Figure 3b)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@register("report", "overhead")
@dataclass(frozen=True)
class Overhead(FigureReport):
    """Draws images a second of each row as a bar, with its ratio to the random selector's written on it.

    Each row is timed in turn with its own dense model, and the ratio is that of two speed-ups, so a slow moment of the machine affects
    neither.
    """

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write overhead.png and overhead.csv (a row a label: batch, images_per_second, speedup, ratio, gmac_selector, rows)."""
        from tokenprune.report.figures.shared.panels import save

        points = table_of(sweep.good)
        console.say(words(points))
        return save(draw(points, sweep.name), sweep.folder, "overhead", points)


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one line a label: means over its rows (seeds) at the largest batch that was timed; `ratio` is to the rows of method random.

    Raises:
        TokenPruneError: There is no row of method random, or none with a speed.
    """
    import pandas as pd

    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["label"], []).append(row)
    lines = [line for label, same in groups.items() if (line := _line(label, same))]
    random = [line["speedup"] for line in lines if line["method"] == "random"]
    if not random:
        raise TokenPruneError("overhead: no timed row of method random to compare with; sweep over method=random with measure=[throughput]")
    for line in lines:
        line["ratio"] = line["speedup"] / random[0]
    return pd.DataFrame(lines)


def _line(label: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    timed = [point for row in rows if (point := _largest(row["cost"]))]
    if not timed:
        return None
    batch, speeds, speedups = timed[0][0], [point[1] for point in timed], [point[2] for point in timed]
    return {
        "name": label, "method": rows[0]["method"], "batch": batch, "images_per_second": fmean(speeds), "speedup": fmean(speedups),
        "gmac_selector": fmean(row["cost"].get("gmac_selector", math.nan) for row in rows), "rows": len(timed),
    }  # fmt: skip


def _largest(cost: Mapping[str, Any]) -> tuple[int, float, float] | None:
    """Return the batch, images a second and speed-up over dense at the last batch size that fitted."""
    lists = [cost.get(f"throughput_{name}") or [] for name in ("batch", "mean", "speedup")]
    points = [point for point in zip(*lists, strict=True) if None not in point]
    return points[-1] if points else None


def words(points: "pd.DataFrame") -> str:
    """Return a sentence on each row's speed in relation to that of random."""
    said = [f"{p['name']} {p['ratio']:.3f}" for _, p in points.iterrows() if p["method"] != "random"]
    return "images a second in terms of a random selector's: " + (", ".join(said) or "nothing else was timed")


def draw(points: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: one bar a row."""
    from tokenprune.report.figures.shared.panels import NORMAL, looks, new_figure, open_axis

    figure = new_figure(1.6 + 1.5 * len(points), 4.2, f"{title} (ratios: of speed-ups over the dense model run in turn)")
    panel = open_axis(figure.subplots())
    colours = [style["color"] for _, style in zip(range(len(points)), looks(), strict=False)]
    bars = panel.bar(range(len(points)), points["images_per_second"], color=colours, width=0.65)
    written = zip(points["images_per_second"], points["ratio"], strict=True)
    panel.bar_label(bars, [f"{speed:.3g}\n{ratio:.2f} x random" for speed, ratio in written], padding=3)
    panel.grid(visible=False)
    panel.set_xticks(range(len(points)), [name.replace(", ", ",\n") for name in points["name"]], fontsize=NORMAL)
    panel.set_ylabel(f"images a second at batch {int(points['batch'].iloc[0])}", fontsize=NORMAL)
    panel.margins(y=0.2)
    return figure
