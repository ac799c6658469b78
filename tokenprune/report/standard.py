"""The reports that every sweep has: its table, and accuracy against cost."""

from dataclasses import dataclass

from tokenprune import console
from tokenprune.paths import expected_of
from tokenprune.registry import register
from tokenprune.report.base import Sweep


@register("report", "table")
@dataclass(frozen=True)
class TableReport:
    """Prints the rows beside the paper's numbers: table.csv (raw), table.md, table.tex."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Print and write the table; nothing where there are no rows."""
        from tokenprune.report.tables import build, to_latex, to_markdown, to_text

        if not sweep.rows:
            return []
        table = build(sweep.rows, expected_of(sweep.name))
        table.data.to_csv(sweep.folder / "table.csv", index=False)
        (sweep.folder / "table.md").write_text(to_markdown(table, sweep.name))
        (sweep.folder / "table.tex").write_text(to_latex(table, sweep.name))
        console.say(to_text(table))
        return ["table.csv", "table.md", "table.tex"]


@register("report", "plot")
@dataclass(frozen=True)
class PlotReport:
    """Draws accuracy against GMAC and against the measured speed-up: plot.png."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Draw the rows that are ok; nothing where there are none."""
        from tokenprune.report.plots import speed_accuracy
        from tokenprune.results import frame

        if not sweep.good:
            return []
        speed_accuracy(frame(sweep.rows), sweep.folder / "plot.png", title=sweep.name)
        return ["plot.png"]
