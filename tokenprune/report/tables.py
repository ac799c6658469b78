"""Rows -> one table: measured numbers with their standard errors, the paper's beside them, and what preserving brought."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.results import frame

_PAPER = ("ap_box", "ap_mask", "fps")
_SCORES = (("ap_box", "box AP"), ("ap_mask", "mask AP"), ("top1", "top-1"))
_LATEX = {"±": r"$\pm$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "—": "--", "−": "$-$"}


@dataclass(frozen=True)
class Table:
    """`data`: raw numbers, a row a run. `shown`: the same as text with the titles people read. `blocks`: text below it, in paragraphs."""

    data: pd.DataFrame
    shown: pd.DataFrame
    blocks: tuple[str, ...]


def build(rows: Sequence[Mapping[str, Any]], expected: Path | None = None) -> Table:
    """Return the table of result rows.

    Args:
        rows: rows of any status, in the order of the table.
        expected: a CSV with method, treatment, keep_rate (empty: any), ap_box, ap_mask, fps, source.
    """
    data = frame(rows)
    if expected is not None:
        data = _with_paper(data, pd.read_csv(expected))
    return Table(data, _shown(data), tuple(block for block in (differences(data), over_seeds(data), _legend(data, expected)) if block))


def differences(data: pd.DataFrame) -> str:
    """Return "preserve minus remove" a method, keep rate and seed, with the combined standard error; "" where there is no such pair.

    The rows share their images, so the error of a difference is smaller than the combined one, which is printed: a cautious reading.
    """
    lines = []
    good = data[data["status"] == "ok"]
    for (label, rate, seed), group in good.groupby(["label", "keep_rate", "seed"], sort=False, dropna=False):
        pair = {t: group[group["treatment"] == t] for t in ("preserve", "remove")}
        if all(len(found) == 1 for found in pair.values()):
            kept, gone = (pair[t].iloc[0] for t in ("preserve", "remove"))
            parts = [_difference(title, kept, gone, name) for name, title in _SCORES if _has(kept, name) and _has(gone, name)]
            lines.append(f"- {label} at {rate:g}, seed {seed}: " + ", ".join(parts))
    return "\n".join(["Preserve minus remove (± combined standard error):", *lines]) if lines else ""


def over_seeds(data: pd.DataFrame) -> str:
    """Return mean and standard deviation over seeds for rows that have several; "" where none has."""
    lines = []
    good = data[data["status"] == "ok"]
    for (label, treatment, rate), group in good.groupby(["label", "treatment", "keep_rate"], sort=False, dropna=False):
        if group["seed"].nunique() > 1:
            parts = [
                f"{title} {group[n].mean():.1f} ± {group[n].std():.1f}" for n, title in _SCORES if n in group and group[n].notna().all()
            ]
            at = "" if pd.isna(rate) else f" at {rate:g}"
            lines.append(f"- {label} {treatment}{at}: {', '.join(parts)} ({group['seed'].nunique()} seeds)")
    return "\n".join(["Over seeds (mean ± standard deviation):", *lines]) if lines else ""


def to_text(table: Table) -> str:
    """Return the table for a terminal, aligned, with what is below it."""
    return "\n\n".join([_aligned(table.shown, " ", " | "), *table.blocks])


def to_markdown(table: Table, title: str) -> str:
    """Return the table as Markdown."""
    shown = table.shown
    lines = ["| " + " | ".join(cells) + " |" for cells in [list(shown.columns), *shown.values.tolist()]]
    lines.insert(1, "|" + "---|" * len(shown.columns))
    return f"# {title}\n\n" + "\n\n".join(["\n".join(lines), *table.blocks]) + "\n"


def to_latex(table: Table, title: str) -> str:
    """Return the table as LaTeX; needs the booktabs package."""
    rows = [" & ".join(map(_latex, cells)) + r" \\" for cells in table.shown.values.tolist()]
    head = " & ".join(map(_latex, table.shown.columns)) + r" \\"
    columns = "ll" + "r" * (len(table.shown.columns) - 2)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {title}; needs \\usepackage{{booktabs}}", *body]) + "\n"


def _with_paper(data: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """Add the paper's numbers to rows of its keep rate."""
    for name in _PAPER:
        data[f"paper_{name}"] = [_paper(expected, row, name) for _, row in data.iterrows()]
    return data


def _paper(expected: pd.DataFrame, row: pd.Series, name: str) -> float:
    found = expected[(expected["method"] == row["label"]) & (expected["treatment"] == row["treatment"])]
    found = found[found["keep_rate"].isna() | (found["keep_rate"] == row["keep_rate"])]
    return float(found[name].iloc[0]) if len(found) else math.nan


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, list[str]] = {"Method": list(data["label"]), "Treatment": list(data["treatment"])}
    columns["CLS"] = list(data["cls"])
    columns["keep_rate"] = _numbers(data, "keep_rate", "{:g}")
    if data["seed"].nunique() > 1:
        columns["seed"] = [str(s) for s in data["seed"]]
    for name, title in _SCORES:
        if name in data and data[name].notna().any():
            columns[title] = _with_errors(data, name)
    formats = [
        ("gmac_total", "GMAC encoder", "{:.3g}"), ("kept_share", "kept share", "{:.3f}"), ("seconds_encoder", "encoder s/img", "{:.4f}"),
        ("speedup_encoder", "encoder speed-up", "{:.2f}"), ("seconds_total", "total s/img", "{:.4f}"),
    ]  # fmt: skip
    columns.update({title: _numbers(data, name, style) for name, title, style in formats})
    columns["status"] = list(data["status"])
    paper = [("paper_ap_box", "paper box AP", "{:.1f}"), ("paper_ap_mask", "paper mask AP", "{:.1f}"), ("paper_fps", "paper FPS", "{:.2f}")]
    columns.update({title: _numbers(data, name, style) for name, title, style in paper if name in data})
    return pd.DataFrame(columns)


def _numbers(data: pd.DataFrame, name: str, style: str) -> list[str]:
    if name not in data:
        return ["—"] * len(data)
    return ["—" if pd.isna(v) else style.format(v) for v in data[name]]


def _with_errors(data: pd.DataFrame, name: str) -> list[str]:
    values, errors = _numbers(data, name, "{:.1f}"), _numbers(data, f"{name}_se", "{:.1f}")
    return [v if "—" in (v, e) else f"{v} ± {e}" for v, e in zip(values, errors, strict=True)]


def _difference(title: str, kept: pd.Series, gone: pd.Series, name: str) -> str:
    change = kept[name] - gone[name]
    errors = [kept.get(f"{name}_se", math.nan), gone.get(f"{name}_se", math.nan)]
    spread = "" if any(pd.isna(e) for e in errors) else f" ± {math.hypot(*errors):.1f}"
    return f"{title} {change:+.1f}{spread}"


def _has(row: pd.Series, name: str) -> bool:
    return name in row and not pd.isna(row[name])


def _legend(data: pd.DataFrame, expected: Path | None) -> str:
    lines = [
        "GMAC: multiply-adds of the encoder (linear, attention and selector; norms have a column of their own in the CSV), the mean over"
        " validation images. Kept share: mean over blocks of kept / all tokens. ±: bootstrap standard error over images. Speed-up:"
        " over the dense encoder, run in turn with the pruned one on each image; masked execution is never timed."
    ]
    if expected is not None:
        lines.append("Paper: SViT, COCO val2017, ViT-Adapter with DeiT-T, keep rate 0.7, FPS on an A100; another data set and model than"
                     " these rows unless they are of scale=paper on COCO.")  # fmt: skip
    if data["device"].nunique() > 1:
        lines.append("These rows are of several devices: do not compare their seconds.")
    lines += [f"{r['label']} {r['treatment']}: {r['status']}: {r['reason']}" for _, r in data[data["status"] != "ok"].iterrows()]
    return "\n\n".join(lines)


def _aligned(shown: pd.DataFrame, pad: str, between: str) -> str:
    cells = [list(shown.columns), *shown.values.tolist()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown.columns))]
    lines = [
        between.join(c.ljust(w, pad) if i < 2 else c.rjust(w, pad) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
