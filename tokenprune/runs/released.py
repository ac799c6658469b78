"""Judges a published file as its authors do, and compares the result with the numbers that they print."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenprune.errors import CheckpointMismatch, InvalidConfig, TokenPruneError
from tokenprune.registry import names
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.plugin_options import KINDS, defaults
from tokenprune.runs.run import NONE, Run
from tokenprune.zoo.catalog import Entry
from tokenprune.zoo.layout import Imported, layout_of
from tokenprune.zoo.load import built, read
from tokenprune.zoo.release import read_release

_SCORES = ("top1", "ap_box", "ap_mask", "miou")
_DEFAULTS = {"norm_eps": None, "final_norm_eps": None, "pool": None, "pool_includes_prefix": None, "model": None}


class Verdict(NamedTuple):
    """Compares one number of a row with the printed one.

    Attributes:
        metric: Name of the metric.
        printed: The number that the authors print.
        measured: The number of the row, NaN if the row has none.
        within: Whether they are at most one unit of the last printed digit apart.
    """

    metric: str
    printed: float
    measured: float
    within: bool


def checked(entry: Entry, path: Path, given: Mapping[str, Any]) -> Imported:
    """Return the imported file of an entry once it is known to load completely.

    Args:
        entry: The entry.
        path: The file.
        given: Settings in the place of the entry's own.

    Raises:
        InvalidConfig: The entry is one that is refused.
        CheckpointMismatch: The file is of another layout, or does not fit the model that its settings make; the message names each key.
    """
    if entry.refused:
        raise InvalidConfig(f"{entry.name} cannot be loaded: {entry.refused}")
    layout = layout_of(read_release(path)).name
    if layout != entry.layout:
        raise CheckpointMismatch(f"{path.name} is of layout {layout}, and {entry.name} is of layout {entry.layout}: it is another file")
    imported = read(path, {**entry.given, **given})
    built(imported, path.name)
    return imported


def run_of(entry: Entry, path: Path, overrides: Sequence[str]) -> Run:
    """Return the run that judges a file.

    Args:
        entry: The entry.
        path: The file.
        overrides: Values and choices in the place of the entry's, as on the command line.
    """
    return resolve(compose([f"zoo={entry.name}", f"init='{path.resolve()}'", *overrides]))


def differences(imported: Imported, run: Run) -> list[str]:
    """Return in words where a run has other settings than its file was made with; [] if there are none."""
    found = []
    for group, wanted in imported.settings.items():
        got = run[group]
        if not isinstance(wanted, Mapping):
            found += [] if wanted == got else [f"{group} is {got!r}, the file's is {wanted!r}"]
            continue
        known = _known(group, got) if isinstance(got, Mapping) else {}
        found += [
            f"{group}.{name} is {known.get(name)!r}, the file's is {value!r}"
            for name, value in wanted.items()
            if not _same(known.get(name), value)
        ]
    return found


def verdicts(entry: Entry, row: Mapping[str, Any]) -> list[Verdict]:
    """Return each printed score beside that of a row. Speeds depend on the machine and are left out."""
    found = []
    for metric in (name for name in _SCORES if name in entry.printed):
        printed, measured = entry.printed[metric], row["metrics"].get(metric, math.nan)
        unit = 10.0 ** -len(str(printed).partition(".")[2])
        found.append(Verdict(metric, printed, measured, abs(measured - printed) <= unit + 1e-9))
    return found


def contribution(entry: Entry, path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a measured file adds to its entry, for the project's YAML file."""
    about = row["environment"]
    measured = {v.metric: round(v.measured, 2) for v in verdicts(entry, row)}
    made = {"device": about.get("device"), "torch": about.get("torch"), "commit": about.get("commit"), "row": row["key"]}
    return {"size": round(path.stat().st_size / 2**20, 1), "sha256": sha256(path), "measured": {**measured, **made}}


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def in_words(entry: Entry, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that tell how a row compares with the printed numbers."""
    found = verdicts(entry, row)
    if not found:
        yield f"the authors print no accuracy of {entry.name}"
    for v in found:
        unit = len(str(v.printed).partition(".")[2])
        ends = "within the last digit" if v.within else f"off by {v.measured - v.printed:+.{unit + 1}f}"
        yield f"{v.metric}: {v.measured:.{unit + 1}f}, printed {v.printed} ({entry.printed_in}): {ends}"
    if found and not all(v.within for v in found):
        yield f"printed numbers are of {entry.needs or 'the data of the paper'}; those of other data or fewer images do not compare"


def require_known(overrides: Sequence[str]) -> None:
    """Refuse words that set nothing.

    Raises:
        InvalidConfig: A word without `=`.
    """
    wrong = [word for word in overrides if "=" not in word]
    if wrong:
        raise InvalidConfig(f"{wrong[0]!r} sets nothing: write KEY=VALUE, e.g. data.max_val=100")


def _known(group: str, got: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of a run with the defaults of its plugin for options that are not given."""
    name = got.get("name", NONE)
    if group in KINDS and name in names(group):
        return {**defaults(group, name), **got}
    return {**(_DEFAULTS if group == "backbone" else {}), **got}


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return all(_same(got.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(wanted) == len(got) and all(map(_same, got, wanted))
    numbers = isinstance(wanted, (int, float)) and isinstance(got, (int, float))
    return math.isclose(got, wanted, rel_tol=1e-9) if numbers else got == wanted


def failed(row: Mapping[str, Any]) -> TokenPruneError | None:
    """Return the error of a row that came to no result; None for one that did."""
    return None if row["status"] == "ok" else TokenPruneError(f"{row['label']}: {row['status']}: {row['reason']}")
