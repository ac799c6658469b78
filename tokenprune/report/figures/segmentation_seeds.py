"""Draws Cropr Figure 5: mIoU over images a second, one point a seed, the median of each method marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_STYLES = {"mIoU": "{:.1f}", "images/s": "{:.4g}", "speed-up": "{:.2f}"}


@register("report", "segmentation_seeds")
@dataclass(frozen=True)
class SegmentationSeeds(FigureReport):
    """Draws mIoU over images a second, one point a seed, and states the median and range of each method (Cropr Fig. 5)."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write segmentation_seeds.png, .csv and .md (a line a method), and segmentation_seeds_points.csv (a line a seed)."""
        from tokenprune.report.tables.formats import Lines, publish

        points = points_of(sweep.good)
        lines, name = medians(points), "segmentation_seeds"
        draw(points, lines, f"{sweep.name}: mIoU over speed, a point a seed").savefig(sweep.folder / f"{name}.png", dpi=130)
        points.to_csv(sweep.folder / f"{name}_points.csv", index=False)
        written = publish(Lines(lines, _in_words(lines), (_legend(points),)), sweep.folder, name, sweep.name, latex=False)
        return [f"{name}.png", *written, f"{name}_points.csv"]


def points_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one line a row: name, dense or not, seed, miou, images_per_second and speedup over the dense backbone, timed in turn.

    If throughput was not measured, the speeds are those of single images.

    Raises:
        TokenPruneError: No finished row has an mIoU.
    """
    import pandas as pd

    from tokenprune.runs.results import scalars

    lines = []
    for row in rows:
        cost = scalars(row["cost"])
        seconds = cost.get("seconds_total")
        speed = cost.get("images_per_second", 1 / seconds if seconds else None)
        gain = cost.get("speedup_batch", cost.get("speedup_encoder"))
        lines.append((row["label"], row["treatment"] == "none", row["seed"], row["metrics"].get("miou"), speed, gain))
    table = pd.DataFrame(lines, columns=["name", "dense", "seed", "miou", "images_per_second", "speedup"]).dropna(subset=["miou"])
    if table.empty:
        raise TokenPruneError("segmentation_seeds: no finished row has an mIoU; use task=segmentation with accuracy in measure")
    return table.astype({"miou": float, "images_per_second": float, "speedup": float})


def medians(points: "pd.DataFrame") -> "pd.DataFrame":
    """Return one line a method: seeds, median, least and greatest mIoU and its gap to the dense median; medians of speed and speed-up."""
    import pandas as pd

    dense = points.loc[points["dense"], "miou"]
    lines = []
    for name, own in points.groupby("name", sort=False):
        middle = median(own["miou"])
        speeds = {column: own[column].median() for column in ("images_per_second", "speedup")}
        line = {"name": name, "dense": bool(own["dense"].iloc[0]), "seeds": len(own), "miou_median": middle}
        line |= {"miou_min": own["miou"].min(), "miou_max": own["miou"].max()}
        lines.append({**line, "miou_minus_dense": middle - median(dense) if len(dense) else None, **speeds})
    return pd.DataFrame(lines)


def draw(points: "pd.DataFrame", lines: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: seeds as small points, the median of each method large at its median speed; twice the dense speed is dashed."""
    from tokenprune.report.figures.shared.panels import BLACK, NORMAL, looks, new_figure, open_axis

    figure, styles = new_figure(7.2, 4.8, title), looks()
    axis = open_axis(figure.subplots())
    for line in lines.to_dict("records"):
        style = {"color": BLACK, "marker": "*"} if line["dense"] else next(styles)
        own = points[points["name"] == line["name"]]
        axis.plot(own["images_per_second"], own["miou"], linestyle="none", markersize=5, alpha=0.5, **style)
        middle = {**style, "markersize": 13 if line["dense"] else 10, "markeredgecolor": BLACK, "linestyle": "none"}
        axis.plot([line["images_per_second"]], [line["miou_median"]], label=f"{line['name']} (median of {line['seeds']})", **middle)
    for line in lines[lines["dense"]].to_dict("records")[:1]:
        axis.axhline(line["miou_median"], color=BLACK, linewidth=0.8, linestyle=":", zorder=0)
        axis.axvline(2 * line["images_per_second"], color=BLACK, linewidth=0.8, linestyle="--", zorder=0, label="twice the dense speed")
    axis.set_xlabel("images a second", fontsize=NORMAL)
    axis.set_ylabel("mIoU", fontsize=NORMAL)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=NORMAL, frameon=False)
    return figure


def _in_words(lines: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    from tokenprune.report.tables.formats import numbers

    titles = {"median mIoU": "miou_median", "least": "miou_min", "greatest": "miou_max"}
    shown = {"Method": list(lines["name"]), "seeds": [str(n) for n in lines["seeds"]]}
    shown |= {title: numbers(lines, column, _STYLES["mIoU"]) for title, column in titles.items()}
    shown["minus dense"] = numbers(lines, "miou_minus_dense", "{:+.1f}")
    shown["images/s"] = numbers(lines, "images_per_second", _STYLES["images/s"])
    shown["speed-up"] = numbers(lines, "speedup", _STYLES["speed-up"])
    return pd.DataFrame(shown)


def _legend(points: "pd.DataFrame") -> str:
    one = " One seed a method: no spread." if points.groupby("name").size().max() == 1 else ""
    return f"Medians over seeds. Speed-up: over the dense backbone, timed in turn.{one}"
