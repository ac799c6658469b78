"""Ranks every selector with every treatment: the best ones at equal cost, and the pairings that are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, ClassVar

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_SCORES = ("ap_box", "miou", "top1")


@register("report", "ranking")
@dataclass(frozen=True)
class Ranking(FigureReport):
    """Ranks pairings of selector and treatment by their score and draws them as a grid; refused ones are grey and have a reason."""

    expects: ClassVar[tuple[str, ...]] = ("invalid",)

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write ranking.png, ranking.csv (a row a pairing, the best first) and ranking.md (the same as text, with all refusals)."""
        from tokenprune.report.figures.shared.panels import save

        points, refused = table_of(sweep.good), refusals(sweep.rows)
        text = f"# {sweep.name}\n\n{in_words(points)}\n\n{refused_in_words(refused)}\n"
        (sweep.folder / "ranking.md").write_text(text, encoding="utf-8")
        console.say(in_words(points.head(10)))
        console.say(f"refused pairings: {len(refused)}, each with its reason in {sweep.folder / 'ranking.md'}")
        return [*save(draw(points, refused, sweep.name), sweep.folder, "ranking", points), "ranking.md"]


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one row a pairing, the best first: label, treatment, score, value, error, gmac, seeds.

    The error is the standard deviation over seeds if there are several, else the standard error over images.

    Raises:
        TokenPruneError: No finished row has an accuracy.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metrics"]:
            groups.setdefault(_pairing(row), []).append(row)
    if not groups:
        raise TokenPruneError("ranking: no finished row has an accuracy; mend the rows above and run the command again")
    lines = [_line(*pair, same) for pair, same in groups.items()]
    return pd.DataFrame(lines).sort_values("value", ascending=False, kind="stable", ignore_index=True)


def _line(label: str, treatment: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    score = next(name for name in (*_SCORES, *rows[0]["metrics"]) if name in rows[0]["metrics"])
    values = [row["metrics"][score] for row in rows]
    costs = [row["cost"]["gmac_total"] for row in rows if "gmac_total" in row["cost"]]
    error = stdev(values) if len(values) > 1 else rows[0]["metrics"].get(f"{score}_se")
    line = {"label": label, "treatment": treatment, "score": score, "value": fmean(values), "error": error}
    return {**line, "gmac": fmean(costs) if costs else None, "seeds": len(rows)}


def refusals(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the reason of each refused pairing, by label and treatment."""
    return {_pairing(row): row["reason"] for row in rows if row["status"] == "invalid"}


def _pairing(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the label and the treatment by its own name.

    The name in a method's table would hide a pairing: Evo-ViT's reactivation is "preserve" there.
    """
    return row["label"], (row["config"].get("treatment") or {}).get("name", row["treatment"])


def in_words(points: "pd.DataFrame") -> str:
    """Return the ranking as a Markdown table."""
    lines = ["| place | Method | Treatment | score | ± | GMAC |", "|---|---|---|---|---|---|"]
    for place, p in points.iterrows():
        error, gmac = ("—" if p[name] is None else f"{p[name]:.3g}" for name in ("error", "gmac"))
        lines.append(f"| {place + 1} | {p['label']} | {p['treatment']} | {p['value']:.1f} | {error} | {gmac} |")
    return "\n".join(lines)


def refused_in_words(refused: Mapping[tuple[str, str], str]) -> str:
    """Return the refusals, one line each."""
    return "\n".join(f"- {label}, {treatment}: {reason}" for (label, treatment), reason in refused.items()) or "No pairing was refused."


def draw(points: "pd.DataFrame", refused: Mapping[tuple[str, str], str], title: str) -> "Figure":
    """Return the grid: one line a selector, its best on top, one column a treatment, the score in each cell."""
    import numpy as np

    from tokenprune.report.figures.shared.panels import GREY, SMALL, new_figure

    pruned = points[points["treatment"] != "none"]
    labels = list(dict.fromkeys([*pruned["label"], *(label for label, _ in refused)]))
    columns = list(dict.fromkeys([*sorted(pruned["treatment"].unique()), *(treatment for _, treatment in refused)]))
    grid = np.full((len(labels), len(columns)), np.nan)
    for _, p in pruned.iterrows():
        grid[labels.index(p["label"]), columns.index(p["treatment"])] = p["value"]
    dense = points.loc[points["treatment"] == "none", "value"]
    note = f"dense {dense.iloc[0]:.1f}; " if len(dense) else ""
    figure = new_figure(2.6 + 1.25 * len(columns), 1.6 + 0.34 * len(labels), f"{title}: score of each pairing\n({note}grey: refused)")
    axis = figure.subplots()
    axis.set_facecolor("#e4e4e4")
    image = axis.imshow(grid, aspect="auto", cmap="viridis")
    for (line, column), value in np.ndenumerate(grid):
        known = not np.isnan(value)
        shade = "white" if known and value < np.nanmean(grid) else "black"
        axis.text(column, line, f"{value:.1f}" if known else "—", ha="center", va="center", fontsize=SMALL, color=shade if known else GREY)
    axis.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=20, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    figure.colorbar(image, ax=axis, label=points["score"].iloc[0])
    return figure
