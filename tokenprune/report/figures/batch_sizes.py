"""Draws SViT Figure 8: images a second over batch sizes, mean and standard deviation over batches, and the gain over the dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

_WIDE = 100  # most characters of a line in the title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@register("report", "batch_sizes")
@dataclass(frozen=True)
class BatchSizes(FigureReport):
    """Draws throughput over batch sizes, one curve a method, and its ratio to the dense backbone timed in turn (SViT Fig. 8)."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write batch_sizes.png and batch_sizes.csv (a row a method and batch size: images/s mean, sd, speed-up)."""
        from tokenprune.report.figures.shared.panels import save

        points = table_of(sweep.good)
        console.say(words(points))
        devices = " / ".join(dict.fromkeys(str(row["environment"].get("device")) for row in sweep.good))
        notes = " / ".join(dict.fromkeys(row["cost"]["throughput_note"] for row in sweep.good if row["cost"].get("throughput_mean")))
        title = f"{sweep.name}: images a second over batch sizes\n" + fill(f"{devices}: {notes}", _WIDE)
        return save(draw(points, title), sweep.folder, "batch_sizes", points)


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one row for each method and batch size: name, batch, mean and sd (images/s), speedup; NaN where nothing was measured.

    Raises:
        TokenPruneError: No finished row measured throughput.
    """
    import pandas as pd

    measured = [row for row in rows if "throughput_batch" in row["cost"]]
    if not measured:
        raise TokenPruneError("batch_sizes: no finished row measured throughput; add measure=[cost,throughput]")
    lines = []
    for row in measured:
        fields = (row["cost"][f"throughput_{name}"] for name in ("batch", "mean", "sd", "speedup"))
        lines += [(_name(row, measured), row["treatment"], row["seed"], *point) for point in zip(*fields, strict=True)]
    table = pd.DataFrame(lines, columns=["name", "treatment", "seed", "batch", "mean", "sd", "speedup"])
    return table.astype({"mean": float, "sd": float, "speedup": float})


def words(points: "pd.DataFrame") -> str:
    """Return a sentence on the speed of each method at the largest batch that ran."""
    ran = points.dropna(subset=["mean"]).groupby(["name", "seed"], sort=False).tail(1)
    said = [f"{p['name']} {p['mean']:.4g} at batch {p['batch']} ({p['speedup']:.2f} x dense)" for _, p in ran.iterrows()]
    return "images a second: " + (", ".join(said) or "nothing was timed")


def draw(points: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: images/s with a band of one standard deviation on the left, the speed-up over dense on the right."""
    from tokenprune.report.figures.shared.panels import BLACK, NORMAL, looks, new_figure, open_axis

    figure = new_figure(11, 4.8, title)
    left, right = figure.subplots(1, 2)
    styles = looks()
    for (name, treatment, _), curve in points.groupby(["name", "treatment", "seed"], sort=False):
        dense = treatment == "none"
        style = {"color": BLACK, "marker": "*", "markersize": 9} if dense else {**next(styles), "markersize": 6}
        left.plot(curve["batch"], curve["mean"], label=name, linewidth=1.5, **style)
        low, high = curve["mean"] - curve["sd"], curve["mean"] + curve["sd"]
        left.fill_between(curve["batch"], low, high, color=style["color"], alpha=0.2, linewidth=0)
        right.plot(curve["batch"], curve["speedup"], linewidth=1.5, **style)
    right.axhline(1, color=BLACK, linewidth=0.8, linestyle="--", zorder=0)
    left.set_ylabel("images a second\n(band: standard deviation over batches)", fontsize=NORMAL)
    right.set_ylabel("speed-up over the dense model,\ntimed in turn", fontsize=NORMAL)
    for axis in map(open_axis, (left, right)):
        _doublings(axis, sorted(points["batch"].unique()))
    left.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=NORMAL, frameon=False)
    return figure


def _doublings(axis: "Axes", sizes: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(sizes), [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("batch size", fontsize=10)


def _name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    rate = row["config"]["schedule"].get("keep_rate")
    several = len({other["config"]["schedule"].get("keep_rate") for other in rows} - {None}) > 1
    named = [other for other in rows if other["label"] == row["label"]]
    parts = [row["label"], row["treatment"] if len({o["treatment"] for o in named}) > 1 else "", f"{rate:g}" if several and rate else ""]
    return ", ".join(part for part in parts if part)
