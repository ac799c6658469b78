"""Judges a published file as its authors do, and compares the result with the numbers that they print."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tokenprune.backbones.vit import read_backbone
from tokenprune.engine.schedule import TARGET
from tokenprune.errors import CheckpointMismatch, InvalidConfig
from tokenprune.registry import names
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.plugin_options import KINDS, defaults
from tokenprune.runs.run import NONE, Run
from tokenprune.utils.files import sha256
from tokenprune.zoo.catalog import Entry
from tokenprune.zoo.compared import counts, unlike
from tokenprune.zoo.layout import Imported, layout_of
from tokenprune.zoo.load import built, imported_of
from tokenprune.zoo.release import read_release

_SIZES = ("embed_dim", "depth", "num_heads", "patch_size")
_SCORES = ("top1", "ap_box", "ap_mask", "miou")
_FOR_TRAINING = ("name", "size", "pretrained", "drop_path", "pos_init", "pretrained_grid")  # change nothing of a finished model


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
    release = read_release(path)
    layout = layout_of(release).name
    if layout != entry.layout:
        raise CheckpointMismatch(f"{path.name} is of layout {layout}, and {entry.name} is of layout {entry.layout}: it is another file")
    imported = imported_of(release, {**entry.given, **given})
    if not imported.classes:
        raise CheckpointMismatch(f"{path.name} has no head, so that nothing can be judged; take the file with the head")
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


def with_method(run: Run, imported: Imported) -> Run:
    """Return a run with selector, treatment and schedule as its file was made, where settings were given in the place of the entry's."""
    return run.replace(**{kind: imported.settings[kind] for kind in KINDS if kind in imported.settings})


def check_size(imported: Imported, run: Run) -> None:
    """Compare the sizes of the ViT of a file and of a run.

    Raises:
        CheckpointMismatch: They differ, so that the file is another one.
    """
    file, model = (read_backbone(settings["backbone"]) for settings in (imported.settings, run))
    wrong = [f"{name} {getattr(file, name)}, not {getattr(model, name)}" for name in _SIZES if getattr(file, name) != getattr(model, name)]
    if wrong:
        raise CheckpointMismatch(f"the file's model has {'; '.join(wrong)}: it is another file than the one that the entry is of")


def differences(imported: Imported, run: Run) -> list[str]:
    """Return in words where a run has other settings than its file was made with; [] if there are none."""
    reads_cls = run.selector_kind is not None and run.selector_kind.wants_cls(run.selector)
    single = ("cls",) if reads_cls and "cls" in imported.settings else ()
    found = [
        f"{name} is {run[name]!r}, the file's is {imported.settings[name]!r}" for name in single if run[name] != imported.settings[name]
    ]
    for group in ("task", "backbone", *KINDS):
        wanted, got = (_completed(group, settings.get(group, {})) for settings in (imported.settings, run))
        if group == "schedule" and _same_counts(got, wanted, imported.settings["backbone"]):
            continue
        wanted = wanted if group != "task" else {name: wanted[name] for name in imported.settings["task"]}
        found += [f"{group}.{name} is {other!r}, the file's is {value!r}" for name, other, value in unlike(got, wanted)]
    return found


def check_classes(imported: Imported, run: Run) -> None:
    """Compare the outputs of a file's head with the classes of the data.

    Raises:
        CheckpointMismatch: They differ in number.
    """
    found = len(run.task_kind().classes(run))
    if found != imported.classes:
        raise CheckpointMismatch(
            f"the file's head is for {imported.classes} classes, and data={run.data_name} has {found} classes; give the data that the"
            " printed numbers are of (--data ROOT)"
        )


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
    made = {"device": about.get("device"), "torch": str(about.get("torch")), "commit": about.get("commit"), "row": row["key"]}
    return {"size": round(path.stat().st_size / 2**20, 1), "sha256": sha256(path), "measured": {**measured, **made}}


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


def _completed(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of settings with the defaults of options that are not given, without names that are for people alone."""
    if group == "backbone":
        return {name: value for name, value in asdict(read_backbone(given)).items() if name not in _FOR_TRAINING}
    name = given.get("name", NONE)
    known = {**defaults(group, name), **given} if group in KINDS and name in names(group) else dict(given)
    return {option: value for option, value in known.items() if option != TARGET}


def _same_counts(got: Mapping[str, Any], wanted: Mapping[str, Any], backbone: Mapping[str, Any]) -> bool:
    """Tell whether schedules of two names keep as many positions at the same blocks of a model."""
    if got.get("name", NONE) == wanted.get("name", NONE):
        return False
    return counts(got, backbone) == counts(wanted, backbone)
