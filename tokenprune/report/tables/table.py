"""Turns rows into one table: measured numbers with their spread, the paper's beside them, and the effect of preserving."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.report.tables.expected import NUMBERS, Expected, of_paper, size_of
from tokenprune.report.tables.formats import numbers
from tokenprune.report.tables.scores import SCORES
from tokenprune.report.tables.seeds import ONE, collapse, configuration, newest, paired, repeated, summarise
from tokenprune.report.tables.settings import settings
from tokenprune.runs.reasons import root_of
from tokenprune.runs.results import ENVIRONMENT, frame

_COSTS = (
    ("gmac_total", "GMAC encoder", "{:.3g}"), ("kept_share", "kept share", "{:.3f}"),
    ("kept_share_uncalibrated", "uncalibrated share", "{:.3f}"), ("seconds_encoder", "encoder s/img", "{:.4f}"),
    ("speedup_encoder", "encoder speed-up", "{:.2f}"), ("seconds_total", "total s/img", "{:.4f}"),
    ("speedup_paper_size", "speed-up at the paper's size", "{:.2f}"), ("kept_share_paper_size", "kept there", "{:.3f}"),
    ("images_per_second", "images/s", "{:.4g}"), ("speedup_batch", "speed-up in batches", "{:.2f}"),
)  # fmt: skip
_FPS = (("seconds_backbone", "FPS backbone"), ("seconds_total", "FPS whole"))  # 1/s; shown where a backbone was timed
_WHERE_MEASURED = (
    "kept_share_uncalibrated",
    "images_per_second",
    "speedup_batch",
    "speedup_paper_size",
    "kept_share_paper_size",
)  # other columns show a dash
_BESIDE = (  # the parts whose sum is measured; the paper's column; title; unit; style
    (("gmac_linear", "gmac_selector"), "gmacs_linear", "linear GMAC", 1, "{:.3g}"),
    (("gmac_linear", "gmac_selector", "gmac_norm", "gmac_head"), "gmacs_pixels", "linear, norm, head GMAC", 1, "{:.4g}"),
    (("parameters",), "parameters", "M parameters", 1e6, "{:.3g}"),
)
_UNMEASURED = ("seconds_note", "throughput_note", "gmac_note", "images_per_second_batch", "paper_size_note")
_ABOUT = (
    "key", "label", "method", "treatment", "scale", "task", "data", "seed", "cls", "execution", "keep_rate", *ENVIRONMENT, "status",
    "reason", "size", "setting", "configuration", "rest", "notes", "made", "folder",
)  # fmt: skip
NOTES = " | "  # separates the notes of a row


@dataclass(frozen=True)
class Table:
    """Holds a table of rows.

    Args:
        data: Raw numbers, one row a run.
        lines: Numbers as shown, one row a configuration.
        shown: The same as text, with titles for people.
        blocks: Paragraphs of text below it.
        seeds: Means and standard deviations if configurations were run with several seeds, else None.
    """

    data: pd.DataFrame
    lines: pd.DataFrame
    shown: pd.DataFrame
    blocks: tuple[str, ...]
    seeds: pd.DataFrame | None

    @property
    def measured_lines(self) -> pd.DataFrame:
        """Return the lines with at least one row that is ok, with the status ok."""
        good = self.lines["status"] == "ok" if self.seeds is None else self.lines["n"] > 0
        return self.lines[good].assign(status="ok")


def build(rows: Sequence[Mapping[str, Any]], expected: Path | None = None) -> Table:
    """Return the table of result rows.

    Args:
        rows: Rows of any status, in the order of the table.
        expected: The paper's numbers, see `tables.expected`.

    Raises:
        DatasetError: `expected` does not have that form.
    """
    return of_frame(rows_frame(rows), expected)


def of_frame(data: pd.DataFrame, expected: Path | None = None) -> Table:
    """Return the table of rows that are a frame already (see `rows_frame`).

    Raises:
        DatasetError: See `build`.
    """
    data, older = newest(data)
    paper, names = None if expected is None else Expected(expected), measured(data)
    data = data if paper is None else paper.beside(data)
    several = repeated(data)
    lines = collapse(data, names) if several else data
    legend = "" if paper is None else paper.legend(data)
    below = (legend, _caution(data) if legend else "", _notes(data), _failures(data), _left_out(older, data))
    blocks = (*differences(data), _legend(data, lines, several), *below)
    seeds = summarise(data, names) if several else None
    return Table(data, lines, _shown(lines, several), tuple(block for block in blocks if block), seeds)


def rows_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows in the form of `results.frame`, with five more columns, or six.

    These are `size`, `configuration` (without seeds), `rest` (also without treatment), `notes`, and `made` (when; "" if not known); and
    `setting` where rows of one name differ in something else, see `settings`.
    """
    digests = {"configuration": (), "rest": ("treatment",)}
    columns = {name: [configuration(row["config"], without) for row in rows] for name, without in digests.items()}
    columns["notes"] = [NOTES.join(row["notes"]) for row in rows]
    columns["made"] = [row.get("made", "") for row in rows]
    data = frame(rows).assign(size=[size_of(row["config"]) for row in rows], **columns)
    differing = settings(rows, data.to_dict("records"))
    return data.assign(setting=differing) if any(differing) else data


def measured(data: pd.DataFrame) -> list[str]:
    """Return the columns of measured numbers: metrics without their bootstrap errors, and costs."""
    names = [name for name in data.columns if name not in (*_ABOUT, *_UNMEASURED) and not of_paper(name)]
    return [name for name in names if not (name.endswith("_se") and name[:-3] in names)]


def differences(data: pd.DataFrame) -> list[str]:
    """Return paragraphs "preserve minus remove" of rows that differ in nothing else; none if there is no such pair.

    With one seed, the difference has the combined bootstrap error. The rows share their images, so the error of their difference is
    smaller; this is a cautious reading. With several seeds, it is the mean of the differences by seed, with its standard error.
    """
    single, several = [], []
    good = data[data["status"] == "ok"]
    for (label, rate, *_), group in good.groupby(["label", "keep_rate", "rest", "cls"], sort=False, dropna=False):
        kept, gone = (group[group["treatment"] == treatment].set_index("seed") for treatment in ("preserve", "remove"))
        shared = [seed for seed in kept.index if seed in gone.index]
        at = label if pd.isna(rate) else f"{label} at {rate:g}"
        if not any(name in good and group[name].notna().any() for name, _ in SCORES):
            continue  # these rows measure time and cost only
        if len(shared) == 1:
            single.append(f"- {at}, seed {shared[0]}: {_by_bootstrap(kept.loc[shared[0]], gone.loc[shared[0]])}")
        elif shared:
            several.append(f"- {at}, {len(shared)} seeds: {_by_seed(kept, gone)}")
    heads = {"combined bootstrap standard error": single, "standard error over seeds, paired by seed": several}
    return ["\n".join([f"Preserve minus remove (± {head}):", *lines]) for head, lines in heads.items() if lines]


def _by_bootstrap(kept: pd.Series, gone: pd.Series) -> str:
    parts = []
    for name, title in SCORES:
        change = kept.get(name, math.nan) - gone.get(name, math.nan)
        error = math.hypot(kept.get(f"{name}_se", math.nan), gone.get(f"{name}_se", math.nan))
        if not math.isnan(change):
            parts.append(f"{title} {change:+.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}"))
    return ", ".join(parts)


def _by_seed(kept: pd.DataFrame, gone: pd.DataFrame) -> str:
    found = {title: paired(kept[name].dropna().to_dict(), gone[name].dropna().to_dict()) for name, title in SCORES if name in kept}
    return ", ".join(f"{title} {gap.mean:+.1f} ± {gap.error:.1f}" for title, gap in found.items() if gap is not None)


def _shown(data: pd.DataFrame, several: bool) -> pd.DataFrame:
    columns: dict[str, list[str]] = {"Method": list(data["label"]), "Treatment": list(data["treatment"])}
    if data["size"].nunique() > 1:
        columns["size"] = list(data["size"])
    if "setting" in data and data["setting"].astype(bool).any():
        columns["setting"] = list(data["setting"])
    columns["CLS"] = list(data["cls"])
    columns["keep_rate"] = numbers(data, "keep_rate", "{:g}")
    if several:
        columns["seeds"] = list(data["seeds"])
    elif data["seed"].nunique() > 1:
        columns["seed"] = [str(s) for s in data["seed"]]
    columns.update({title: _with_errors(data, name) for name, title in SCORES if name in data and data[name].notna().any()})
    costs = [cost for cost in _COSTS if cost[0] not in _WHERE_MEASURED or (cost[0] in data and data[cost[0]].notna().any())]
    columns.update({title: numbers(data, name, style) for name, title, style in costs})
    shown = [beside for beside in _BESIDE if f"paper_{beside[1]}" in data and beside[0][0] in data]  # as a paper prints them
    columns.update({title: numbers(_as_printed(data, parts) / unit, parts[0], style) for parts, _, title, unit, style in shown})
    if _has_backbone(data):
        columns.update({title: numbers(1 / data[[name]].astype(float), name, "{:.2f}") for name, title in _FPS})
    columns["status"] = list(data["status"])
    columns.update(_printed_gain(data))
    papers = [name for name in NUMBERS if f"paper_{name}" in data]
    columns.update({NUMBERS[name][0]: numbers(data, f"paper_{name}", NUMBERS[name][1]) for name in papers})
    return pd.DataFrame(columns)


def _printed_gain(data: pd.DataFrame) -> dict[str, list[str]]:
    """Return the paper's frames a second over those of its dense row, where speed was measured at the paper's size; else no column."""
    if "paper_fps" not in data or "speedup_paper_size" not in data:
        return {}
    fps = pd.to_numeric(data["paper_fps"], errors="coerce")
    dense = fps[data["treatment"] == "none"].dropna()
    return {} if dense.empty else {"paper FPS speed-up": numbers((fps / dense.iloc[0]).to_frame("gain"), "gain", "{:.2f}")}


def _as_printed(data: pd.DataFrame, parts: tuple[str, ...]) -> pd.DataFrame:
    """Return a column as Cropr prints it, under the name of its first part.

    Cropr's linear GMAC include selectors, and in segmentation norms and head.
    """
    column = data[[parts[0]]].astype(float)
    for name in (part for part in parts[1:] if part in data):
        column = column.add(data[name].astype(float).fillna(0), axis=0)
    return column


def _has_backbone(data: pd.DataFrame) -> bool:
    return "seconds_backbone" in data and data["seconds_backbone"].notna().any()


def _with_errors(data: pd.DataFrame, name: str) -> list[str]:
    values, errors = numbers(data, name, "{:.1f}"), numbers(data, f"{name}_se", "{:.1f}")
    return [v if "—" in (v, e) else f"{v} ± {e}" for v, e in zip(values, errors, strict=True)]


def _legend(data: pd.DataFrame, lines: pd.DataFrame, several: bool) -> str:
    spread = "bootstrap standard error over images"
    if several:
        alone = f"; of a line with one seed, {spread}" if lines["seeds"].str.fullmatch("1|1 of .*").any() else ""
        spread = "standard deviation over seeds (`seeds`: how many), not over images; the other numbers are means over seeds" + alone
    text = (
        "GMAC: multiply-adds of the encoder (linear, attention and selector; norms have a column of their own in the CSV), the mean over"
        f" validation images. Kept share: mean over blocks of kept / all tokens. ±: {spread}. Speed-up: over the dense encoder, run in turn"
        " with the pruned one on each image; masked execution is never timed."
    )
    if "kept_share_uncalibrated" in data and data["kept_share_uncalibrated"].notna().any():
        text += " Uncalibrated share: the share that gates keep at p > 0.5, before their thresholds are set to meet the target."
    if "images_per_second" in data and data["images_per_second"].notna().any():
        sizes = sorted({int(size) for size in data["images_per_second_batch"].dropna()})
        text += f" Images/s: of the whole model at batch {' and '.join(map(str, sizes))}, the dense backbone run in turn."
    if "speedup_paper_size" in data and data["speedup_paper_size"].notna().any():
        notes = data.loc[data["speedup_paper_size"].notna(), "paper_size_note"]
        text += f" Speed-up at the paper's size: the encoder alone, {notes.iloc[-1]}; not the model of the AP columns."
    if "paper_gmacs_linear" in data:
        text += " Linear GMAC: of weight layers and selectors, without the products of attention, as Cropr counts."
    if "paper_gmacs_pixels" in data:
        text += " Linear, norm, head GMAC: as Cropr counts in segmentation, norms at 5 an element, the head at every patch, no attention."
    if "gmac_note" in data and data["gmac_note"].notna().any():
        as_it_is = data[data["gmac_note"].notna()]
        text += f" GMAC of {', '.join(dict.fromkeys(as_it_is['label']))}: {as_it_is['gmac_note'].iloc[0]}; timed alone."
    if _has_backbone(data):
        text += " FPS: one over the seconds an image; backbone: the encoder with the modules that make feature maps of its tokens."
    if data["device"].nunique() > 1:
        text += "\n\nThese rows are of several devices: do not compare their seconds."
    return text


def _caution(data: pd.DataFrame) -> str:
    if ((data["scale"] == "paper") & (data["data"] == "coco")).all():
        return ""
    if ((data["scale"] == "paper") & (data["data"] == "imagefolder")).all():
        return "The paper's numbers are of ImageNet-1k, these rows of the folder that was given."
    if ((data["scale"] == "paper") & (data["data"] == "semantic")).all():
        return "The paper's numbers are of ADE20k, these rows of the folders that were given."
    return (
        "The paper's numbers are of another data set and model than these rows, which are of"
        f" scale={' and '.join(data['scale'].unique())} on {' and '.join(data['data'].unique())}: compare rows with rows."
    )


def _notes(data: pd.DataFrame) -> str:
    """Return the notes of rows, but for those on the run that they start from, which tables show elsewhere."""
    notes = ((label, note) for label, notes in zip(data["label"], data["notes"], strict=True) for note in notes.split(NOTES))
    said = dict.fromkeys((label, note) for label, note in notes if note and not note.startswith("starts from"))
    return "\n".join(f"- {label}: {note}" for label, note in said)


def _failures(data: pd.DataFrame) -> str:
    """Return the reasons of rows that are not ok; one that several rows share stands once, behind the names of all."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for _, r in data[data["status"] != "ok"].iterrows():
        name = f"{r['label']} {r['treatment']}, seed {r['seed']}"
        groups.setdefault((r["status"], root_of(r["reason"])), []).append((name, r["reason"]))
    return "\n\n".join(f"{'; '.join(n for n, _ in rows)}: {status}: {rows[0][1]}" for (status, _), rows in groups.items())


def _left_out(older: pd.DataFrame, data: pd.DataFrame) -> str:
    """Return what to say of rows that `seeds.newest` leaves out; "" if there are none."""
    lines = []
    for _, row in older.iterrows():
        (key,) = data.loc[(data[ONE] == row[ONE]).all(axis=1), "key"]
        lines.append(f"- {row['label']} {row['treatment']}, seed {row['seed']}: row {row['key']}; row {key} stands above")
    head = "Left out: older rows of a configuration and seed that was run again with other code, other input files or on another machine:"
    return "\n".join([head, *lines]) if lines else ""
