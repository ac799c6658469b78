"""Draws how the losses of trainings fell, and says which were flat in the end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, names_of
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = 3  # panels side by side


@register("report", "learning_curves")
@dataclass(frozen=True)
class LearningCurves(FigureReport):
    """Draws each loss over the iterations of every trained row, and tables by how much it still fell in the last quarter.

    The numbers are those that each row keeps in losses.csv, means over a hundredth of its steps. Rows that differ in their seed alone are
    one curve, their mean. A loss is flat where its mean over the last quarter of the steps lies at most `flat` below that of the quarter
    before, and it is not where it lies lower by two standard errors more. Recipes whose learning rate ends at 0 flatten every loss, so that
    flat does not mean that longer training brings nothing.

    Args:
        flat: Share of its value that a flat loss may fall from the third to the last quarter, 0 up to below 1.
    """

    flat: float = 0.03

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not 0 <= self.flat < 1:
            raise InvalidConfig(f"reports.learning_curves.flat is {self.flat}; allowed: 0 up to below 1, a share of the loss")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write learning_curves.png and .csv (a line a row, loss and point), convergence.csv and .md (a line a row and loss).

        Raises:
            TokenPruneError: No finished row has kept its losses.
        """
        from tokenprune.report.figures.shared.panels import save
        from tokenprune.report.tables.formats import Lines, publish

        points = points_of(sweep)
        written = save(draw(points, f"{sweep.name}: losses of the training"), sweep.folder, "learning_curves", points)
        table = convergence(points, self.flat)
        legend = (
            f"Flat: over the last quarter of the steps a loss lies at most {self.flat:.0%} below the quarter before (yes), by two standard"
            " errors more than that (no), or between (within noise). Errors are of the points' scatter."
        )
        return [*written, *publish(Lines(table, _in_words(table), (legend,)), sweep.folder, "convergence", sweep.name, latex=False)]


def points_of(sweep: Sweep) -> "pd.DataFrame":
    """Return the points of all trained rows of a sweep: row, seed, loss, iteration, value.

    Raises:
        TokenPruneError: No finished row has kept its losses.
    """
    import pandas as pd

    from tokenprune.runs.results import row_folder
    from tokenprune.runs.row import LOSSES

    parts = []
    for row, name in zip(sweep.good, _named(sweep.good), strict=True):
        path = row_folder(sweep.results_dir, row["key"]) / LOSSES
        if path.is_file():
            curve = pd.read_csv(path).melt("iteration", var_name="loss").dropna()
            parts.append(curve.assign(row=name, seed=row["seed"])[["row", "seed", "loss", "iteration", "value"]])
    if not parts:
        there = ", ".join(f"{row['label']} ({row['status']})" for row in sweep.rows) or "none"
        raise TokenPruneError(
            f"learning_curves: no finished row has kept its losses, which trained rows do; rows: {there}; train with training.iterations"
            " above 0, or make rows of older versions again with --fresh"
        )
    points = pd.concat(parts, ignore_index=True)
    points["loss"] = points["loss"].str.removeprefix("loss_")
    return points


def convergence(points: "pd.DataFrame", flat: float) -> "pd.DataFrame":
    """Return a line for each row and loss: seeds, its value in the first tenth, the third and the last quarter, and by how much it fell.

    Args:
        points: From `points_of`.
        flat: See `LearningCurves`.

    Returns:
        Columns row, loss, seeds, iterations, first, third_quarter, last_quarter, fall (share of the third quarter; negative where the loss
        rose), fall_se (of the points' scatter), flat (yes, no or within noise; empty where a training has too few points to say).
    """
    import pandas as pd

    lines = []
    for (row, loss), part in points.groupby(["row", "loss"], sort=False):
        steps = part["iteration"].max()
        curve = part.groupby("iteration")["value"].mean()
        before, last = curve[(curve.index > steps / 2) & (curve.index <= 0.75 * steps)], curve[curve.index > 0.75 * steps]
        line = {"row": row, "loss": loss, "seeds": part["seed"].nunique(), "iterations": steps}
        line |= {"first": curve[curve.index <= max(0.1 * steps, curve.index[0])].mean()}
        line |= {"third_quarter": before.mean(), "last_quarter": last.mean()}
        if min(len(before), len(last)) >= 2 and before.mean() != 0:
            fall = 1 - last.mean() / before.mean()
            error = (before.sem() ** 2 + last.sem() ** 2) ** 0.5 / abs(before.mean())
            line |= {"fall": fall, "fall_se": error, "flat": "yes" if fall <= flat else "no" if fall - 2 * error > flat else "within noise"}
        lines.append(line)
    columns = ["row", "loss", "seeds", "iterations", "first", "third_quarter", "last_quarter", "fall", "fall_se", "flat"]
    return pd.DataFrame(lines, columns=columns)


def draw(points: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: a panel for each loss, a curve for each row (the mean over its seeds)."""
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, looks, new_figure, open_axis

    losses, rows = list(points["loss"].unique()), list(points["row"].unique())
    columns = min(_COLUMNS, len(losses))
    lines = -(-len(losses) // columns)
    figure = new_figure(4.2 * columns + 2.4, 3.1 * lines + 0.5, title)
    axes = figure.subplots(lines, columns, squeeze=False).flat
    styles = dict(zip(rows, looks(), strict=False))
    for axis, loss in zip(axes, losses, strict=False):
        open_axis(axis).set_title(loss, fontsize=NORMAL)
        for row, value in _means(points[points["loss"] == loss]):
            axis.plot(value.index, value, **styles[row], markersize=4, markevery=max(1, len(value) // 8), linewidth=1.2, label=row)
        axis.set_xlabel("iteration", fontsize=SMALL)
        axis.locator_params(axis="x", integer=True)
    for axis in list(axes)[len(losses) :]:
        axis.set_visible(False)
    shown = {label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=SMALL)
    return figure


def _means(points: "pd.DataFrame") -> "Iterator[tuple[str, pd.Series]]":
    for row, part in points.groupby("row", sort=False):
        yield str(row), part.groupby("iteration")["value"].mean()


def _named(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows' names, the same for rows that differ in their seed alone."""
    from tokenprune.report.tables.seeds import configuration

    groups = [(row["label"], row["treatment"], configuration(row["config"])) for row in rows]
    first: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for group, row in zip(groups, rows, strict=True):
        first.setdefault(group, row)
    names = dict(zip(first, names_of(list(first.values())), strict=True))
    return [names[group] for group in groups]


def _in_words(table: "pd.DataFrame") -> "pd.DataFrame":
    shown = table.astype(str)
    for name in ("first", "third_quarter", "last_quarter"):
        shown[name] = [f"{value:.3f}" for value in table[name]]
    shown["fall"] = [
        f"{fall:.1%} ± {error:.1%}" if fall == fall else "—" for fall, error in zip(table["fall"], table["fall_se"], strict=True)
    ]
    shown["flat"] = table["flat"].fillna("—")
    return shown.drop(columns="fall_se")
