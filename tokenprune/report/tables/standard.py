"""Defines the reports that every sweep has: its table, and accuracy against cost."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.runs.reports import Sweep
from tokenprune.utils.paths import expected_of


@register("report", "table")
@dataclass(frozen=True)
class TableReport:
    """Prints the rows beside the paper's numbers, seeds as one line: table.md, table.tex, raw table.csv, table_seeds.csv."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Print and write the table; nothing if there are no rows."""
        from tokenprune.report.tables.formats import publish
        from tokenprune.report.tables.table import build

        if not sweep.rows:
            return []
        table = build(sweep.rows, expected_of(sweep.name))
        wrote = publish(table, sweep.folder, "table", sweep.name)
        means = sweep.folder / "table_seeds.csv"
        means.unlink(missing_ok=True)  # the file may belong to an earlier table with other seeds
        if table.seeds is not None:
            table.seeds.to_csv(means, index=False)
        return wrote + [means.name] * means.is_file()


@register("report", "plot")
@dataclass(frozen=True)
class PlotReport:
    """Draws accuracy against GMAC and against the measured speed-up: plot.png."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Draw the rows that are ok; nothing if there are none, or none with an accuracy and a cost."""
        from tokenprune.report.figures.shared.plots import speed_accuracy
        from tokenprune.report.tables.table import build

        if not any(row["metrics"] and row["cost"] for row in sweep.good):
            return []
        table = build(sweep.rows)
        bars = "bootstrap standard error over images" if table.seeds is None else "standard deviation over seeds"
        speed_accuracy(table.measured_lines, sweep.folder / "plot.png", title=f"{sweep.name} (bars: {bars})")
        return ["plot.png"]
