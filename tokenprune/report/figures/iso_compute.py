"""Draws every method at the same GMAC: the keep rate found for each, and its accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tokenprune.engine.schedule import TARGET
from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep
from tokenprune.runs.run import Run
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_SCORES = {"top1": "top-1 accuracy (%)", "ap_box": "box AP", "miou": "mIoU"}


@register("report", "iso_compute")
@dataclass(frozen=True)
class IsoCompute(FigureReport):
    """Draws the accuracy of methods that spend the same GMAC, with the keep rate found for each and its measured GMAC."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write iso_compute.png and iso_compute.csv (a row a method)."""
        from tokenprune.report.figures.shared.panels import save

        points = table_of(sweep.good)
        console.say(words(points))
        return save(draw(points, f"{sweep.name}: accuracy at equal compute"), sweep.folder, "iso_compute", points)


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one row a configuration: method, treatment, target_gmac (NaN: dense), the setting found for it, measured gmac_total, score.

    The error is the standard deviation over seeds if there are several, else the standard error over images.

    Raises:
        TokenPruneError: No finished row has accuracy and cost.
    """
    import pandas as pd

    from tokenprune.report.tables.seeds import configuration

    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metrics"] and "gmac_total" in row["cost"]:
            groups.setdefault((row["label"], configuration(row["config"])), []).append(row)
    if not groups:
        raise TokenPruneError("iso_compute: no finished row has accuracy and cost; mend the rows above and run the command again")
    return pd.DataFrame([_line(label, same) for (label, _), same in groups.items()])


def _line(label: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from tokenprune.runs.target_gmac import asked

    run = Run.of(rows[0]["config"])
    schedule, dial = run.schedule, run.dial and run.dial[0]
    score = next(name for name in (*_SCORES, *rows[0]["metrics"]) if name in rows[0]["metrics"])
    values = [row["metrics"][score] for row in rows]
    target = None if schedule.get(TARGET) is None else asked(rows[0]["config"])
    gmac = fmean(row["cost"]["gmac_total"] for row in rows)
    return {
        "label": label, "treatment": rows[0]["treatment"], "target_gmac": target, "keep_rate": schedule.get("keep_rate"),
        "remove": schedule.get("remove"), "dial": dial and f"{dial} {run.selector[dial]:g}",
        "gmac_total": gmac, "off_target": None if target is None else gmac / target - 1, "score": score,
        "value": fmean(values), "error": stdev(values) if len(values) > 1 else rows[0]["metrics"].get(f"{score}_se"), "seeds": len(values),
    }  # fmt: skip


def words(points: "pd.DataFrame") -> str:
    """Return a sentence on how near the measured GMACs are to the target."""
    met = points.dropna(subset=["off_target"])
    if not len(met):
        return f"iso_compute: no row has schedule.{TARGET}"
    worst = met.loc[met["off_target"].abs().idxmax()]
    at = f"{len(met)} methods at {met['target_gmac'].iloc[0]:.3g} GMAC"
    return f"iso_compute: {at}; farthest off: {worst['label']} {worst['off_target']:+.1%}"


def draw(points: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: one line a method, best on top, its score with error bar; the setting found and the GMAC spent on the right."""
    from tokenprune.report.figures.shared.panels import BLACK, BLUE, NORMAL, SMALL, new_figure, open_axis

    ranked = points.sort_values("value").reset_index(drop=True)
    target = points["target_gmac"].dropna()
    asked = f"target: {target.iloc[0]:.3g} GMAC an image" if len(target) else "no target"
    errors = "standard deviation over seeds" if points["seeds"].max() > 1 else "standard error over images"
    figure = new_figure(9, 1.4 + 0.42 * len(ranked), f"{title}\n{asked}; error bars: {errors}")
    axis = open_axis(figure.subplots())
    for place, point in ranked.iterrows():
        dense = point["treatment"] == "none"
        style = {"color": BLACK, "marker": "*", "markersize": 12} if dense else {"color": BLUE, "marker": "o", "markersize": 7}
        axis.errorbar(point["value"], place, xerr=point["error"], capsize=3, linestyle="none", **style)
        axis.annotate(_found(point), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
    axis.set_yticks(range(len(ranked)), [name for name in ranked["label"]])
    axis.set_xlabel(_SCORES.get(points["score"].iloc[0], points["score"].iloc[0]), fontsize=NORMAL)
    return figure


def _found(point: "pd.Series") -> str:
    import pandas as pd

    found = ""
    if not pd.isna(point["dial"]):
        found = f"{point['dial']}, "
    elif not pd.isna(point["target_gmac"]):
        found = f"keep {point['keep_rate']:g}, " if not pd.isna(point["keep_rate"]) else f"{point['remove']:.0f} a block less, "
    return f"{found}{point['gmac_total']:.3g} GMAC"
