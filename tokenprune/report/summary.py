"""One row in a few lines, and the report of a sweep: table.csv, table.md, table.tex, plot.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune import console
from tokenprune.paths import expected_of

_METRICS = (("ap_box", "box AP"), ("ap_mask", "mask AP"), ("top1", "top-1"))


def summary(row: Mapping[str, Any], results_dir: str) -> str:
    """Return a finished row in words, with where it lies."""
    metrics, cost = row["metrics"], row["cost"]
    scores = [_score(title, metrics[name], metrics.get(f"{name}_se")) for name, title in _METRICS if name in metrics]
    speed = [f"{title} {cost[n]:.4g} s/image" for n, title in (("seconds_encoder", "encoder"), ("seconds_total", "whole")) if cost.get(n)]
    lines = [
        f"{row['label']}, {row['treatment']}: " + ", ".join(scores),
        f"encoder {cost['gmac_total']:.4g} GMAC, {cost['kept_share']:.1%} of the tokens kept; "
        + (", ".join(speed) or "speed not measured"),
        f"result: {Path(results_dir) / 'rows' / row['key'] / 'result.json'}",
    ]
    return "\n".join(lines)


def write_report(name: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Print the table of a sweep and write it, with a plot where there is something to plot.

    Args:
        name: of the experiment, which finds the paper's numbers.
        rows: result rows in the order of the table.
        folder: where table.csv, table.md, table.tex and plot.png go.
    """
    from tokenprune.report.tables import build, to_latex, to_markdown, to_text

    expected = expected_of(name)
    table = build(rows, expected)
    folder.mkdir(parents=True, exist_ok=True)
    table.data.to_csv(folder / "table.csv", index=False)
    (folder / "table.md").write_text(to_markdown(table, name))
    (folder / "table.tex").write_text(to_latex(table, name))
    console.say(to_text(table))
    wrote = ["table.csv", "table.md", "table.tex"]
    if any(row["status"] == "ok" for row in rows):
        from tokenprune.report.plots import speed_accuracy

        speed_accuracy(table.data, folder / "plot.png", title=name)
        wrote.append("plot.png")
    console.say(f"wrote {', '.join(wrote)} in {folder}")


def _score(title: str, value: float, error: float | None) -> str:
    return f"{title} {value:.1f}" + ("" if error is None else f" ± {error:.1f}")
