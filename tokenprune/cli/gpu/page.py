"""Writes what was measured as one table, and as one page that needs no other file: tables and curves of every part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.cli.gpu.cases import Part
from tokenprune.cli.gpu.runner import finished, rows_of
from tokenprune.report.page.grids import Grid
from tokenprune.report.page.overview import Overview
from tokenprune.report.page.sections import Image, Section
from tokenprune.report.page.sections import Part as Shown
from tokenprune.report.page.write import in_html, in_markdown

TITLE = "tokenprune on one GPU"
_HIDDEN = {
    "part",
    "note",
    "seconds_taken",
    "method",
    "batch",
    "mode",
    "N",
    "spread",
    "against",
    "task",
    "steps",
}  # `case` tells the last ones
_DIGITS = "{:.4g}"


@dataclass(frozen=True)
class Table:
    """Holds a table as the report room shows one."""

    data: pd.DataFrame
    shown: pd.DataFrame
    blocks: Sequence[str]


def write(parts: Sequence[Part], out: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write gpu.csv, gpu.html, gpu.md and the curves of what is there so far; return these files.

    Args:
        parts: All parts; those without a row are left out and named.
        out: Folder of their files.
        facts: What rows say of the machine.
    """
    found = {part.name: rows_of(part, out) for part in parts}
    there = [part for part in parts if len(found[part.name])]
    sections = [_section(part, found[part.name], facts, out) for part in there]
    rows = pd.concat([found[part.name] for part in there] or [pd.DataFrame(columns=["part", "case", "status", "reason", "seconds_taken"])])
    opening = _overview(parts, rows, facts, out)
    rows.to_csv(out / "gpu.csv", index=False)
    (out / "gpu.html").write_text(in_html(opening, sections, TITLE), encoding="utf-8")
    text = in_markdown(opening, sections, TITLE)
    for part in there:
        text = text.replace(f"({part.name}/", "(")  # curves lie beside the page, not in a folder for each section
    (out / "gpu.md").write_text(text, encoding="utf-8")
    return [out / "gpu.csv", out / "gpu.html", out / "gpu.md", *(part.plot.path for s in sections for part in s.parts if part.plot)]


def _overview(parts: Sequence[Part], rows: pd.DataFrame, facts: Mapping[str, Any], out: Path) -> Overview:
    lines = [_line(part, rows[rows["part"] == part.name], finished(part, out)) for part in parts]
    bad = rows[rows["status"] != "ok"]
    why = [{"what": f"{row['part']}: {row['case']}", "status": row["status"], "why": str(row["reason"])} for _, row in bad.iterrows()]
    machine = {name: str(value) for name, value in facts.items() if name != "made"}
    waiting = [part.title for part in parts if not finished(part, out)]
    said = f" Not finished: {', '.join(waiting)}; the same command goes on." if waiting else ""
    sentence = f"{len(rows)} rows on {facts['device']}.{said}"
    reasons = Grid.of(pd.DataFrame(why)) if why else None
    return Overview(sentence, Grid.of(pd.DataFrame(lines)), Grid.of(pd.DataFrame([machine])), reasons, None)


def _line(part: Part, rows: pd.DataFrame, done: bool) -> dict[str, str]:
    counts = ", ".join(f"{number} {status}" for status, number in rows["status"].value_counts().items()) or "none"
    state = "finished" if done else "begun" if len(rows) else "waits"
    seconds = f"{rows['seconds_taken'].sum():.0f}"
    return {"what": part.title, "state": state, "rows": str(len(rows)), "status": counts, "seconds": seconds}


def _section(part: Part, rows: pd.DataFrame, facts: Mapping[str, Any], out: Path) -> Section:
    shown = _compared(rows) if "dtype" in rows else rows
    shown = shown[[name for name in shown if name not in {*_HIDDEN, *facts}]].dropna(axis=1, how="all")
    shown = shown[[name for name in shown if name != "reason"] + ["reason"]].rename(columns={"case": "what", "reason": "why"})
    words = pd.DataFrame({name.replace("_", " "): [_cell(value) for value in shown[name]] for name in shown})
    notes = [str(note) for note in rows["note"].dropna().unique()[:1]] if "note" in rows else []
    plot = None if part.curves is None else _curves(part, rows, out / f"{part.name}.png")
    of = f"{part.text.rstrip('.')}"
    return Section(part.name, None, [Shown(part.name, part.title, of, Table(rows, words, notes), None, plot, [])], [], [])  # type: ignore[arg-type]


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a case, with its largest difference in each precision and, where an execution is not ok, which and why."""
    largest = rows.pivot_table(index="case", columns="dtype", values="difference", aggfunc="max", sort=False)
    lines = []
    for case, group in rows.groupby("case", sort=False):
        bad = group[group["status"] != "ok"]
        why = "; ".join(f"{row['execution']} {row['dtype']}: {row['reason']}" for _, row in bad.iterrows())
        status = "ok" if bad.empty else bad["status"].iloc[0]
        differences = largest.loc[case].to_dict() if case in largest.index else {}
        lines.append({"case": case, **differences, "status": status, "reason": why})
    return pd.DataFrame(lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "—" if pd.isna(value) else _DIGITS.format(value)


def _curves(part: Part, rows: pd.DataFrame, path: Path) -> Image | None:
    """Draw one curve a name over x; None where nothing was measured at two points."""
    from tokenprune.report.figures.shared.panels import NORMAL, looks, new_figure, open_axis

    across, up, name = part.curves or ("", "", "")
    if up not in rows or rows[up].notna().sum() < 2:
        return None
    good = rows[rows[up].notna()]
    panels = [(str(key), group) for key, group in good.groupby("mode" if "mode" in good else "spread", sort=False)]
    figure = new_figure(1.5 + 4.5 * len(panels), 4.8, part.title)
    for axis, (title, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        styles = looks()
        for label, curve in group.sort_values(across).groupby(name, sort=False):
            axis.plot(curve[across], curve[up], label=label, linewidth=1.5, markersize=5, **next(styles))
        open_axis(axis).set_title(title, fontsize=NORMAL)
        axis.set_xscale("log", base=2)
        axis.set_xlabel(across.replace("_", " "), fontsize=NORMAL)
        axis.set_ylabel(up.replace("_", " "), fontsize=NORMAL)
        axis.legend(fontsize=6, frameon=False)
    figure.savefig(path, dpi=130)
    return Image(path, f"{up.replace('_', ' ')} over {across.replace('_', ' ')}, one curve a {name}".capitalize())
