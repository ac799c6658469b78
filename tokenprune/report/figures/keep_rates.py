"""Draws SViT Figure 7: accuracy against the encoder's time and multiply-adds at several keep rates, with the dense model for comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIMES = {
    "relative": ("time_relative", "encoder time / dense encoder time (batch 1, timed in turn)"),
    "seconds": ("seconds_encoder", "encoder seconds an image (batch 1)"),
}
_ROOM = 3  # with more curves than this, points have no numbers beside them
_SCORES = {"ap_box": "box AP", "ap_mask": "mask AP", "top1": "top-1 accuracy (%)", "miou": "mIoU"}


@register("report", "keep_rates")
@dataclass(frozen=True)
class KeepRates(FigureReport):
    """Draws box and mask AP against encoder time and GMAC, one curve a method over its keep rates, dense as a star (SViT Fig. 7).

    Args:
        time: `relative` to the dense encoder, which is timed in turn with each row, so that a slow moment of the machine affects both; or
            `seconds` as measured, which differ between rows that were made at different times on a shared machine.
    """

    time: str = "relative"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: The time is not measured.
        """
        super().__post_init__()
        if self.time not in _TIMES:
            raise InvalidConfig(f"reports.keep_rates.time is {self.time!r}; allowed: {', '.join(_TIMES)}")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write keep_rates.png and keep_rates.csv (a row for each method, treatment and keep rate)."""
        from tokenprune.report.figures.shared.panels import save

        points = summarised(sweep.good)
        return save(draw(points, self.time, f"{sweep.name}: accuracy against the encoder's cost"), sweep.folder, "keep_rates", points)


def summarised(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one row for each label, treatment and keep rate: means over seeds, each score's error, and the kind of that error.

    The error is the standard deviation over seeds if there are several, else the bootstrap standard error over images.

    Raises:
        TokenPruneError: There is no finished row.
    """
    import pandas as pd

    from tokenprune.runs.results import frame

    if not rows:
        raise TokenPruneError("keep_rates: the sweep has no finished row; mend the rows above and run the command again")
    data = frame(rows)
    data["time_relative"] = 1 / pd.to_numeric(data["speedup_encoder"])
    data["seconds_encoder"] = pd.to_numeric(data["seconds_encoder"])
    points = []
    for key, group in data.groupby(["label", "treatment", "keep_rate"], sort=False, dropna=False):
        point = dict(zip(("label", "treatment", "keep_rate"), key, strict=True)) | {"seeds": group["seed"].nunique()}
        several = point["seeds"] > 1
        for score in (name for name in _SCORES if name in data):
            errors = group[f"{score}_se"] if f"{score}_se" in group else group[score] * float("nan")
            point |= {score: group[score].mean(), f"{score}_error": group[score].std() if several else errors.mean()}
        single = "bootstrap standard error over images" if "ap_box" in data else "standard error over images"
        point["error"] = "standard deviation over seeds" if several else single
        means = {name: group[name].mean() for name in ("gmac_total", "kept_share", "time_relative", "seconds_encoder")}
        points.append({**point, **means})
    return pd.DataFrame(points)


def draw(points: "pd.DataFrame", time: str, title: str) -> "Figure":
    """Return the figure: one line of panels a score, encoder time on the left and GMAC on the right."""
    return curves(points, (_TIMES[time], ("gmac_total", "encoder GMAC")), title)


def curves(points: "pd.DataFrame", costs: Sequence[tuple[str, str]], title: str) -> "Figure":
    """Return a figure with one line of panels a score, and in it a panel for each of two `costs`.

    Keep rates are written beside points if few curves leave room for them.

    Args:
        points: See `summarised`.
        costs: Column of `points` and its name for people.
        title: Title of the figure.
    """
    from tokenprune.report.figures.shared.panels import NORMAL, new_figure

    scores = [name for name in _SCORES if name in points and points[name].notna().any()]
    kinds = " / ".join(dict.fromkeys(points["error"]))
    crowded = points.groupby(["label", "treatment"]).ngroups > _ROOM
    beside = "" if crowded else "numbers beside points: keep rates; "
    figure = new_figure(11, 0.9 + (4.2 if crowded else 3.5) * len(scores), f"{title}\n{beside}error bars: {kinds}")
    axes = figure.subplots(len(scores), 2, squeeze=False, sharex="col", sharey="row")
    for line, score in zip(axes, scores, strict=True):
        line[0].set_ylabel(_SCORES[score], fontsize=NORMAL)
        for axis, (cost, _) in zip(line, costs, strict=True):
            _panel(axis, points, cost, score, numbers=not crowded)
    for axis, (_, name) in zip(axes[-1], costs, strict=True):
        axis.set_xlabel(name, fontsize=NORMAL)
    if crowded:
        figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize=NORMAL, frameon=False)
    else:
        axes[0, 1].legend(fontsize=NORMAL, loc="lower right")
    return figure


def _panel(axis: "Axes", points: "pd.DataFrame", cost: str, score: str, numbers: bool) -> None:
    from tokenprune.report.figures.shared.panels import BLACK, NORMAL, looks, open_axis

    open_axis(axis).margins(x=0.09)
    styles = looks()
    groups = points.groupby(["label", "treatment"], sort=False)
    for (label, treatment), group in groups:
        name = label if points.loc[points["label"] == label, "treatment"].nunique() == 1 else f"{label}, {treatment}"
        curve = group.sort_values("keep_rate")
        dense = treatment == "none"
        star = {"color": BLACK, "marker": "*", "markersize": 15, "linestyle": "none"}
        style = star if dense else {**next(styles), "markersize": 6}
        axis.errorbar(curve[cost], curve[score], yerr=curve[f"{score}_error"], capsize=3, label=name, elinewidth=1, **style)
        if dense:
            axis.axhline(curve[score].iloc[0], color=BLACK, linewidth=0.8, linestyle="--", zorder=0)
        if not numbers:
            continue
        for _, point in curve[curve[cost].notna() & curve["keep_rate"].notna()].iterrows():
            place = {"xytext": (6, -13), "textcoords": "offset points", "fontsize": NORMAL - 1}
            axis.annotate(f"{point['keep_rate']:g}", (point[cost], point[score]), **place)
