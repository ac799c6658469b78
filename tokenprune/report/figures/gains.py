"""Draws the gain of pruning over model size, image size or total share pruned (Cropr Figure 4, Appendices D and E)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXES: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
    "size": (lambda config: config["backbone"].get("size"), "model"),
    "side": (lambda config: config["data"].get("side"), "side of the image (pixels)"),
    "total": (lambda config: config["schedule"].get("total"), "share of the tokens dropped in the end"),
}


@register("report", "gains")
@dataclass(frozen=True)
class Gains(FigureReport):
    """Draws the speed-up over dense, the speed-up that GMACs predict, and top-1 accuracy if there is one, over one axis.

    Args:
        axis: `size` of the model, `side` of the image, or `total`, the share of the tokens that a per-block schedule drops in the end.
    """

    axis: str = "size"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: The axis is unknown.
        """
        super().__post_init__()
        if self.axis not in _AXES:
            raise InvalidConfig(f"reports.gains.axis is {self.axis!r}; allowed: {', '.join(_AXES)}")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write gains.png and gains.csv (a row a configuration)."""
        from tokenprune.report.figures.shared.panels import save

        points = table_of(sweep.good, self.axis)
        console.say(words(points))
        seeds = "standard deviation over seeds" if points["seeds"].max() > 1 else "standard error over images"
        return save(draw(points, self.axis, f"{sweep.name} (bars: {seeds})"), sweep.folder, "gains", points)


def table_of(rows: Sequence[Mapping[str, Any]], axis: str) -> "pd.DataFrame":
    """Return one row a configuration: name, dense or not, x, macs_ratio (dense GMAC / its own), speedup, top1 and its error, seeds.

    A pruned model is compared with the dense one of the same size and image; over `total` with the only one.

    Raises:
        TokenPruneError: A pruned row has no dense one to compare with.
    """
    import pandas as pd

    from tokenprune.report.tables.seeds import configuration

    of, groups = _AXES[axis][0], {}
    for row in rows:
        groups.setdefault((row["label"], row["treatment"], configuration(row["config"])), []).append(row)
    lines = [_line(label, same, of) for (label, _, _), same in groups.items()]
    dense = {None if axis == "total" else line["x"]: line["gmac"] for line in lines if line["dense"]}
    for line in lines:
        place = None if axis == "total" else line["x"]
        if place not in dense:
            raise TokenPruneError(f"gains: no dense row at {axis} {place}; sweep over it too, and mend the rows above")
        line["macs_ratio"] = dense[place] / line["gmac"]
    return pd.DataFrame(lines)


def _line(label: str, rows: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    from tokenprune.runs.results import scalars

    first, costs = rows[0], [scalars(row["cost"]) for row in rows]
    speeds = [s for cost in costs if (s := cost.get("speedup_batch", cost.get("speedup_encoder"))) is not None]
    scores = [row["metrics"]["top1"] for row in rows if "top1" in row["metrics"]]
    error = stdev(scores) if len(scores) > 1 else first["metrics"].get("top1_se")
    return {
        "name": label, "dense": first["treatment"] == "none", "x": of(first["config"]),
        "gmac": fmean(row["cost"]["gmac_total"] for row in rows), "speedup": fmean(speeds) if speeds else None,
        "top1": fmean(scores) if scores else None, "top1_error": error if scores else None, "seeds": len(rows),
    }  # fmt: skip


def words(points: "pd.DataFrame") -> str:
    """Return a sentence on the gain of each pruned model."""
    import pandas as pd

    pruned = points[~points["dense"]]
    said = [
        f"{p['name']} at {p['x']} {'untimed' if pd.isna(p['speedup']) else format(p['speedup'], '.2f')} ({p['macs_ratio']:.2f} by GMAC)"
        for _, p in pruned.iterrows()
    ]
    return "speed-up over dense: " + (", ".join(said) or "nothing was pruned")


def draw(points: "pd.DataFrame", axis: str, title: str) -> "Figure":
    """Return the figure: speed-ups on the left, accuracy on the right if rows have one."""
    from tokenprune.report.figures.shared.panels import NORMAL, looks, new_figure, open_axis

    judged = points["top1"].notna().any()
    figure = new_figure(10.5 if judged else 6.4, 4.4, title)
    panels = list(map(open_axis, figure.subplots(1, 1 + judged, squeeze=False)[0]))
    places = {x: n for n, x in enumerate(dict.fromkeys(points["x"].dropna()))} if axis == "size" else {}
    for (name, curve), style in zip(points[~points["dense"]].groupby("name", sort=False), looks(), strict=False):
        x = [places.get(value, value) for value in curve["x"]]
        panels[0].plot(x, curve["speedup"].astype(float), label=name, markersize=7, **style)
        panels[0].plot(x, curve["macs_ratio"], linestyle=":", linewidth=1.2, color=style["color"])
        if judged:
            panels[1].errorbar(x, curve["top1"], yerr=curve["top1_error"], label=name, capsize=3, markersize=7, **style)
    panels[0].set_ylabel("speed-up over the dense model\n(dotted: ratio of GMACs)", fontsize=NORMAL)
    panels[0].axhline(1, color="#222222", linewidth=0.8, linestyle="--", zorder=0)
    if judged:
        _dense_accuracy(panels[1], points[points["dense"]], axis)
    for panel in panels:
        panel.set_xlabel(_AXES[axis][1], fontsize=NORMAL)
        if places:
            panel.set_xticks(list(places.values()), list(places))
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=NORMAL, frameon=False)
    return figure


def _dense_accuracy(axis: "Axes", dense: "pd.DataFrame", of: str) -> None:
    axis.set_ylabel("top-1 accuracy (%)", fontsize=10)
    style = {"color": "#222222", "linestyle": "--", "linewidth": 1}
    if of != "total":
        axis.errorbar(dense["x"].map(str) if of == "size" else dense["x"], dense["top1"], yerr=dense["top1_error"], label="Dense", **style)
    elif len(dense):
        axis.axhline(dense["top1"].iloc[0], label="Dense", **style)
