"""Draws accuracy over keep rates without any training, and compares attention with chance as a choice of tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.measure.paired import SURE
from tokenprune.registry import get, register
from tokenprune.report.figures.base import FigureReport
from tokenprune.report.figures.keep_rates import curves, summarised
from tokenprune.report.insights.verdicts import FAILS, HOLDS, UNDECIDED, together
from tokenprune.report.tables.judged_rows import read
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd

_AXES = (("keep_rate", "keep rate of a stage"), ("gmac_total", "encoder GMAC"))


@register("report", "training_free")
@dataclass(frozen=True)
class TrainingFree(FigureReport):
    """Draws top-1 accuracy over keep rates and over GMAC of methods that were not trained, with a table, and compares two of them.

    Args:
        first: First of the methods that are compared at each keep rate. There is no comparison if the sweep lacks one of the two.
        second: Second of these methods.
    """

    first: str = "topk"
    second: str = "random"

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write training_free.png, training_free.csv (a row for each method and keep rate) and training_free.md (both as text)."""
        from tokenprune.report.figures.shared.panels import save

        rows, refused = parted(sweep.good)
        points = summarised(rows)
        lines = [claim(rows, self.first, self.second, sweep.results_dir), refused]
        text = "\n\n".join([pivot(points), *filter(None, lines)])
        console.say(text)
        (sweep.folder / "training_free.md").write_text(f"# {sweep.name}\n\n{text}\n", encoding="utf-8")
        shown = points.assign(keep_rate=points["keep_rate"].fillna(1.0))  # dense keeps every token
        figure = curves(shown, _AXES, f"{sweep.name}: accuracy without any training of the pruned model")
        return [*save(figure, sweep.folder, "training_free", points), "training_free.md"]


def parted(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """Return the rows whose selectors need no training, and a sentence that names the others, or "" if there are none."""
    learners, free = {}, []
    for row in rows:
        name = row["config"]["selector"].get("name", "none") if row["config"].get("selector") else "none"
        if name != "none" and get("selector", name).learns:
            learners[row["label"]] = name
        else:
            free.append(row)
    named = ", ".join(f"{label} (selector {name})" for label, name in learners.items())
    return free, f"Left out, because their selectors need training: {named}." if named else ""


def pivot(points: "pd.DataFrame") -> str:
    """Return a Markdown table: one line a method, one column a keep rate, top-1 ± standard error and GMAC."""
    rates = sorted(points["keep_rate"].dropna().unique(), reverse=True)
    lines = ["| Method | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---|" + "---|" * len(rates)]
    for (label, treatment), group in points.groupby(["label", "treatment"], sort=False):
        cells = [_cell(group if treatment == "none" else group[group["keep_rate"] == rate]) for rate in rates]
        lines.append(f"| {label}, {treatment} | " + " | ".join(cells) + " |")
    legend = "top-1 ± standard error (GMAC of the encoder); columns: keep rate of a stage; the dense model drops nothing."
    return "\n".join(lines) + f"\n\n{legend}"


def _cell(point: "pd.DataFrame") -> str:
    if not len(point):
        return "—"
    p = point.iloc[0]
    return f"{p['top1']:.1f} ± {p['top1_error']:.1f} ({p['gmac_total']:.3g})"


def claim(rows: Sequence[Mapping[str, Any]], first: str, second: str, results_dir: Path) -> str:
    """Return if one method beats another, keep rate by keep rate, as text, or "" if the sweep lacks either.

    Rows of the first one's treatment are compared, so that the selectors differ and not the treatments. Where both rows have predictions of
    single images under `results_dir`, the error is that of the paired difference, else that of independent samples, which is larger.
    """
    judged = [row for row in rows if "top1" in row["metrics"]]
    treatment = next((row["treatment"] for row in judged if row["method"] == first), None)
    alike = [row for row in judged if row["treatment"] == treatment]
    found = {name: {_rate(row): row for row in alike if row["method"] == name} for name in (first, second)}
    shared = sorted(set(found[first]) & set(found[second]), reverse=True)
    if not shared:
        return ""
    verdicts, lines = [], []
    for rate in shared:
        gap, error, how = _difference(*(found[name][rate] for name in (first, second)), results_dir)
        verdicts.append(HOLDS if gap > SURE * error else FAILS if gap < -SURE * error else UNDECIDED)
        lines.append(f"- keep rate {rate:g}: {gap:+.1f} ± {error:.1f} ({how}), {verdicts[-1]}")
    names = [found[name][shared[0]]["label"] for name in (first, second)]
    rule = f"holds where the difference is above {SURE} standard errors"
    return "\n".join([f"{names[0]} is better than {names[1]}: {together(verdicts)} ({rule}).", *lines])


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], results_dir: Path) -> tuple[float, float, str]:
    """Return the difference of top-1 of two rows in points, its standard error, and of what this is the error."""
    answers = [found for row in (one, other) if (found := read(row, results_dir)) is not None]
    if len(answers) == 2 and type(answers[0]) is type(answers[1]) and answers[0].saw_the_same(answers[1]):
        pair = answers[0].against(answers[1], "top1")
        return pair.difference, pair.error, "paired by image"
    first, second = one["metrics"], other["metrics"]
    return first["top1"] - second["top1"], math.hypot(first["top1_se"], second["top1_se"]), "as if of other images"


def _rate(row: Mapping[str, Any]) -> float:
    return float(row["config"]["schedule"]["keep_rate"])
