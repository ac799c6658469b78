"""Turns the tables of a report into lines for the interactive page: one a configuration, with its numbers, spread and command."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from tokenprune.registry import names as plugins
from tokenprune.report.explorer.metrics import METRICS
from tokenprune.report.tables.scores import SCORES
from tokenprune.report.tables.seeds import SAME
from tokenprune.report.tables.table import NOTES
from tokenprune.runs.commands import derived
from tokenprune.runs.plugin_options import presets, without_defaults
from tokenprune.runs.presets import choices
from tokenprune.runs.run import NONE

if TYPE_CHECKING:
    from tokenprune.report.page.gather import Stored
    from tokenprune.report.page.sections import Part, Section

_SHARED = ("task", "data", "scale", "execution")  # rows that agree in these have accuracies that can be compared
_QUARTILES = {"speedup": "speedup_encoder_quartiles", "latency_encoder": "seconds_encoder_quartiles", "latency": "seconds_total_quartiles"}


def lines_of(section: "Section") -> "Iterator[tuple[dict[str, Any], pd.DataFrame]]":
    """Yield each line of the tables of an experiment, and the rows that it stands for, one a seed."""
    for part in section.parts:
        for line, rows in _grouped(part):
            stored = [section.stored.get((key, device)) for key, device in zip(rows["key"], rows["device"], strict=True)]
            yield _line(section.name, line, rows, [one for one in stored if one is not None]), rows


def _grouped(part: "Part") -> Iterator[tuple[pd.Series, pd.DataFrame]]:
    table = part.table
    groups = [group for _, group in table.data.groupby(SAME, sort=False)] if table.seeds is not None else None
    for number, (_, line) in enumerate(table.lines.iterrows()):
        yield line, table.data.iloc[[number]] if groups is None else groups[number]


def _line(experiment: str, line: pd.Series, rows: pd.DataFrame, stored: "Sequence[Stored]") -> dict[str, Any]:
    good = rows[rows["status"] == "ok"]
    first = stored[0].row if stored else None
    facts = {name: str(line[name]) for name in ("label", "method", "treatment", "cls", "size", "device", "status", *_SHARED)}
    return {
        **facts,
        "experiment": experiment,
        "name": _called(line),
        "selector": _selector(str(line["method"]), first),
        "setting": _setting(line, first),
        "rate": _number(line["keep_rate"]),
        "seeds": [int(seed) for seed in rows["seed"]],
        "why": "; ".join(dict.fromkeys(str(reason) for reason in rows["reason"] if isinstance(reason, str) and reason)),
        "values": {m.name: value for m in METRICS if (value := m.of(line.get(m.column))) is not None},
        "errors": {name: error for name, _ in SCORES if (error := _number(line.get(f"{name}_se"))) is not None},
        "spread": _spread(len(good)),
        "ranges": _ranges(first) if len(rows) == 1 else {},
        "by_seed": _by_seed(good),
        "command": _command(experiment, rows, first),
        "kept": _kept(stored),
        "rows": [f"{one.results_dir.resolve().name}/rows/{one.row['key']}" for one in stored if one.row["status"] == "ok"],
        "notes": [note for note in dict.fromkeys(NOTES.join(map(str, rows["notes"])).split(NOTES)) if note],
    }


def _called(line: pd.Series) -> str:
    """Return a line's name: its label, treatment and keep rate, where it has them."""
    rate = _number(line["keep_rate"])
    parts = [line["label"], "" if line["treatment"] == NONE else line["treatment"], "" if rate is None else f"{rate:g}"]
    return ", ".join(str(part) for part in parts if part)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _spread(seeds: int) -> str:
    if not seeds:
        return ""
    return "bootstrap standard error over images, one seed" if seeds == 1 else f"standard deviation over {seeds} seeds"


@cache
def _selectors() -> Mapping[str, str]:
    return {name: choices(preset).get("selector", NONE) for name, preset in presets().items()}


def _selector(method: str, row: Mapping[str, Any] | None) -> str:
    """Return the name of a row's selector; of a row that was read from a table, that of its method, else the method's own name."""
    own = {} if row is None else row["config"].get("selector") or {}
    return own.get("name") or _selectors().get(method) or method or NONE


def _setting(line: pd.Series, row: Mapping[str, Any] | None) -> str:
    """Return the schedule and its options in words, or what a table says of it."""
    if row is None:
        rate = _number(line["keep_rate"])
        return "" if rate is None else f"keep rate {rate:g}"
    schedule = row["config"].get("schedule") or {}
    name = schedule.get("name", NONE)
    options = without_defaults("schedule", schedule) if name in plugins("schedule") else schedule
    words = {option: value for option, value in {"keep_rate": schedule.get("keep_rate"), **options}.items() if option != "name"}
    said = [f"{option} {value}" for option, value in words.items() if value is not None]
    return "" if name == NONE else ", ".join([f"schedule {name}", *said])


def _ranges(row: Mapping[str, Any] | None) -> dict[str, list[float]]:
    """Return the first and third quartile of the numbers that were timed."""
    cost = {} if row is None else row["cost"]
    pairs = {m: [m.of(value) for value in cost.get(_QUARTILES[m.name]) or ()] for m in METRICS if m.name in _QUARTILES}
    return {m.name: [value for value in pair if value is not None] for m, pair in pairs.items() if len(pair) == 2 and None not in pair}


def _by_seed(good: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the accuracies of each seed."""
    found = {}
    for name, _ in SCORES:
        if name in good:
            found[name] = {str(seed): float(v) for seed, v in zip(good["seed"], good[name], strict=True) if not pd.isna(v)}
    return {name: values for name, values in found.items() if values}


def _command(experiment: str, rows: pd.DataFrame, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the command of the first seed's row; `typed` tells if it is the recorded one."""
    if row is not None and row.get("command"):
        return {"text": row["command"], "typed": True}
    return {"text": derived({**rows.iloc[0], "experiment": experiment.partition("__")[0]}), "typed": False}


def _kept(stored: "Sequence[Stored]") -> list[float]:
    """Return the share of tokens that each block keeps, the mean over the seeds; [] if it is not known."""
    shares = [one.row["cost"].get("kept_per_block") for one in stored if one.row["status"] == "ok"]
    known = [share for share in shares if share]
    if not known or len({len(share) for share in known}) > 1:
        return []
    return [round(fmean(block), 4) for block in zip(*known, strict=True)]
