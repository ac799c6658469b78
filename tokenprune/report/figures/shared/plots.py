"""Draws accuracy against cost, as far as it was measured: GMAC, speed-up over the dense encoder, also in batches; dense as a line."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenprune.report.figures.shared.pareto import COSTS, costs_of, on_front

_MARKERS = {"none": "*", "remove": "o", "preserve": "s", "reactivate": "D", "fuse": "^", "merge": "v", "last_layer_fusion": "P"}
_COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f",
            "#882255", "#44aa99", "#999933", "#332288", "#bcbd22", "#117733", "#661100", "#6699cc", "#ff9da7")  # fmt: skip
_ROOM = 3  # with more curves than this, points have no keep rates beside them
_SCORES = {"ap_box": "box AP", "top1": "top-1 accuracy (%)", "ap_mask": "mask AP", "miou": "mIoU"}


def score_of(data: pd.DataFrame) -> str | None:
    """Return the accuracy by which the rows are drawn, or None if they have none."""
    return next((name for name in _SCORES if name in data and data[name].notna().any()), None)


def speed_accuracy(data: pd.DataFrame, path: Path, title: str = "", score: str | None = None, front: bool = False) -> Figure:
    """Draw the rows of a table (`tables.build(...).data`) and write the figure.

    Args:
        data: Rows with the score and costs: gmac_total, speedup_encoder, speedup_batch, each a panel if it was measured. Rows that are not
            ok are left out.
        path: PNG or PDF.
        title: Title of the figure.
        score: The column on the vertical axis; None takes box AP, or the accuracy that the rows have.
        front: Whether the Pareto front is drawn.

    Returns:
        The figure, for notebooks.
    """
    good = _named(data[data["status"] == "ok"])
    score, costs = score or score_of(good) or data.columns[-1], costs_of(good)
    if not costs:
        good, costs = good.assign(gmac_total=float("nan")), ["gmac_total"]  # an empty figure says that nothing was measured
    figure = Figure(figsize=(3.2 + 3.9 * len(costs), 4.6), layout="constrained")
    axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(dict.fromkeys(good["label"]))}
    for axis, column in zip(axes, costs, strict=True):
        rows = good.assign(**{column: pd.to_numeric(good[column])})
        _panel(axis, rows, column, score, colours)
        if front:
            _front(axis, rows, column, score)
        axis.set_xlabel(COSTS[column][0])
    axes[0].set_ylabel(_SCORES.get(score, score))
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside right upper", fontsize=9, frameon=False)
    if len(costs) > 1:
        figure.suptitle(title, fontsize=11)
    else:
        axes[0].set_title(title.replace(" (", "\n("), loc="left", fontsize=11)  # in the middle it would lie below the legend
    figure.savefig(path, dpi=150)
    return figure


def _front(axis: Axes, rows: pd.DataFrame, column: str, score: str) -> None:
    best = rows[on_front(rows, column, score, COSTS[column][1])].sort_values([column, score])
    axis.plot(best[column], best[score], color="#8a8a8a", linewidth=5, alpha=0.35, zorder=0, solid_capstyle="round", label="Pareto front")


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the legend's text of each row.

    Class token and size appear only if rows of one name differ in them; the marks of every value but the first are hollow. `curve`
    numbers the rows of one name that a sweep has made, NaN for a row alone.
    """
    name = rows["label"].where(rows["treatment"] == "none", rows["label"] + ", " + rows["treatment"])
    full, hollow = name, pd.Series(False, index=rows.index)
    for column, word in (("cls", " CLS"), ("size", "")):
        if column in rows:
            of = rows[column].groupby(name)
            several = of.transform("nunique") > 1
            full = full.where(~several, full + ", " + rows[column] + word)
            hollow |= several & (rows[column] != of.transform("first"))
    alike = full.groupby([full, rows["seed"]] if "seed" in rows else full)
    return rows.assign(legend=full, hollow=hollow, curve=alike.ngroup().where(alike.transform("size") > 1))


def _panel(axis: Axes, rows: pd.DataFrame, column: str, score: str, colours: dict[str, str]) -> None:
    errors = rows[f"{score}_se"] if f"{score}_se" in rows else pd.Series(0.0, index=rows.index)
    curves = rows[rows[column].notna()].sort_values(column).groupby("curve")
    for _, curve in curves:
        axis.plot(curve[column], curve[score], color=colours[curve["label"].iloc[0]], linewidth=0.9, alpha=0.6, zorder=1)
    for index, row in rows.iterrows():
        if pd.isna(row[column]):
            continue  # masked execution is not timed
        style = {"color": colours[row["label"]], "marker": _MARKERS.get(row["treatment"], "X"), "linestyle": "none", "capsize": 2}
        style |= {"markersize": 11 if row["treatment"] == "none" else 7} | ({"markerfacecolor": "white"} if row["hollow"] else {})
        axis.errorbar(row[column], row[score], yerr=errors[index], label=row["legend"], **style)
        if not pd.isna(row["curve"]) and not pd.isna(row["keep_rate"]) and curves.ngroups <= _ROOM:
            axis.annotate(f"{row['keep_rate']:g}", (row[column], row[score]), xytext=(5, 4), textcoords="offset points", fontsize=7)
    for value in rows.loc[rows["method"] == "dense", score][:1]:
        axis.axhline(value, color="#222222", linewidth=0.8, linestyle="--", zorder=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
