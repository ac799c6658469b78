"""Gathers result rows of a whole folder by experiment, from rows/<key>/result.json or from tables of rows that were written as CSV."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import OtherVersion, ResultSchemaError, TokenPruneError
from tokenprune.report.page.csv_rows import holds_rows, read_rows, told_apart
from tokenprune.runs.results import read_result
from tokenprune.runs.run_key import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

SINGLE = "single_runs"  # rows that belong to no experiment
_MEASURED = "measured"
_START = re.compile(r"starts from the (?:dense|classification) run (\w+)")


@dataclass(frozen=True)
class Stored:
    """Holds a row as its result.json has it, and the results folder that it lies in."""

    row: Mapping[str, Any]
    results_dir: Path


@dataclass(frozen=True)
class Experiment:
    """Holds the rows of one experiment and the other files beside its table.

    Args:
        name: Name in conf/experiment, or `SINGLE`.
        data: Rows of any status in the form of `tables.rows_frame`; empty if there are only files.
        folders: Folders of its pictures and texts.
        own: Stems of files that are made of these rows again and so are no extras.
        stored: The rows that were read from a results folder, by key and device.
    """

    name: str
    data: "pd.DataFrame"
    folders: tuple[Path, ...] = ()
    own: frozenset[str] = frozenset({"table", "plot"})
    stored: Mapping[tuple[str, str], Stored] = field(default_factory=dict)

    def files(self, suffix: str) -> list[Path]:
        """Return the extra files of a kind, such as `.png`."""
        return [path for folder in self.folders for path in sorted(folder.glob(f"*{suffix}")) if path.stem not in self.own]


@dataclass(frozen=True)
class Found:
    """Holds the content of a folder.

    Attributes:
        experiments: The experiments.
        unreadable: For each file that could not be read, the pair (place, reason).
        starts: Number of rows from which others start.
    """

    experiments: list[Experiment]
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    starts: int = 0


def gather(root: Path, names: Sequence[str] = (), without: Path | None = None) -> Found:
    """Return everything under a results folder, or under a folder of measured tables (experiments/).

    Args:
        root: The folder.
        names: Names of the experiments that are wanted; none for all.
        without: A folder that is left out, such as an earlier report.

    Raises:
        TokenPruneError: There is no such folder, it holds no row, or it lacks an experiment.
    """
    if not root.is_dir():
        raise TokenPruneError(f"report: there is no folder {root}; give a results folder (it holds rows/), or one of measured tables")
    found = _of_results(root) if (root / "rows").is_dir() else _of_tables(root, without)
    if not found.experiments:
        why = f"; {len(found.unreadable)} could not be read, the first: {': '.join(found.unreadable[0])}" if found.unreadable else ""
        wanted = "rows/*/result.json, and no CSV with the columns key, label, method, treatment, seed and status"
        raise TokenPruneError(f"report: {root} holds no result row: no {wanted}{why}")
    return only(found, names, str(root))


def only(found: Found, names: Sequence[str], where: str) -> Found:
    """Return what was found of some experiments, all if no names are given.

    Raises:
        TokenPruneError: An experiment is not in `where`.
    """
    there = [experiment.name for experiment in found.experiments]
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise TokenPruneError(f"report: {where} has no experiment {', '.join(unknown)}; it has {', '.join(there)}")
    return replace(found, experiments=[e for e in found.experiments if not names or e.name in names])


def _of_results(root: Path) -> Found:
    from tokenprune.report.tables.table import rows_frame

    rows, unreadable = _rows(root)
    listed: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(root.glob("tables/*/table.csv")):
        listed[path.parent.name] = list(_relisted(path, rows, root, unreadable))
    tabled = {row["key"] for table in listed.values() for row in table}
    starts = {key for row in rows.values() for note in row["notes"] for key in _START.findall(note)} - tabled
    for row in rows.values():
        if row["key"] not in tabled | starts:
            listed.setdefault(row["config"].get("experiment") or SINGLE, []).append(row)
    names = {*listed, *(path.name for path in root.glob("tables/*") if any(path.glob("*.[mp][dn]*")))}
    stored = {(row["key"], row["environment"].get("device")): Stored(row, root) for row in rows.values()}
    experiments = [
        Experiment(name, rows_frame(listed.get(name, ())), (root / "tables" / name,), stored=stored) for name in sorted(names, key=natural)
    ]
    return Found([e for e in experiments if len(e.data) or e.files(".png") or e.files(".md")], unreadable, len(starts))


def _rows(root: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the rows of a results folder by key, and for each that cannot be read the pair (place, reason).

    Raises:
        TokenPruneError: All of its rows are of another version.
    """
    rows, unreadable, others = {}, [], []
    for folder in sorted(path for path in (root / "rows").iterdir() if path.is_dir()):
        try:
            rows[folder.name] = _read(folder / "result.json")
        except ResultSchemaError as error:
            unreadable.append((f"rows/{folder.name}", str(error)))
            others += [error] if isinstance(error, OtherVersion) else []
    if others and not rows:
        makers, schemas = (sorted({str(getattr(error, name)) for error in others}) for name in ("maker", "schema"))
        raise TokenPruneError(
            f"report: {root} was written by tokenprune {', '.join(makers)}: its {len(others)} rows are of schema {', '.join(schemas)}, and"
            f" this version reads schema {SCHEMA}; make its page with that version, or run its rows again"
        )
    return rows, unreadable


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ResultSchemaError("no result yet: still running, or killed; the same command again goes on with it")
    row = read_result(path)
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
    return {**row, "made": row.get("made") or written}  # rows of earlier versions do not say when they were made


def _relisted(path: Path, rows: Mapping[str, Any], root: Path, unreadable: list[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table under the names that it gives them, in its order."""
    lines, problems = read_rows(path)
    unreadable += [(f"{path.relative_to(root)}: {where}", why) for where, why in problems]
    for line in lines:
        if line["key"] in rows:
            yield {**rows[line["key"]], **{name: line[name] for name in ("label", "method", "treatment")}}
        else:
            unreadable.append((str(path.relative_to(root)), f"row {line['label']} ({line['key']}) is gone from rows/; run it again"))


def _of_tables(root: Path, without: Path | None) -> Found:
    import pandas as pd

    tables: dict[str, list[Path]] = {}
    unreadable: list[tuple[str, str]] = []
    for path in sorted(root.rglob("*.csv")):
        if (without is None or without.resolve() not in path.resolve().parents) and holds_rows(path):
            tables.setdefault(_experiment_of(path), []).append(path)
    experiments, folders = [], {_experiment_of(p / "x"): p for p in root.glob(f"*/{_MEASURED}")}
    for name in sorted({*tables, *folders}, key=natural):
        lines: list[dict[str, Any]] = []
        for path in tables.get(name, ()):
            good, problems = read_rows(path)
            lines += good
            unreadable += [(f"{path.relative_to(root)}: {where}", why) for where, why in problems]
        unique: dict[tuple[str, ...], dict[str, Any]] = {}
        for line in lines:
            unique.setdefault((line["key"], line["label"], line["treatment"], line["device"]), line)
        places = tuple(dict.fromkeys([*(path.parent for path in tables.get(name, ())), *([folders[name]] if name in folders else [])]))
        own = frozenset({"table", "plot", *(path.stem for path in tables.get(name, ()))})
        experiments.append(Experiment(name, told_apart(pd.DataFrame(list(unique.values()))), places, own))
    return Found([e for e in experiments if len(e.data) or e.files(".png") or e.files(".md")], unreadable)


def _experiment_of(path: Path) -> str:
    parts = path.resolve().parts
    return parts[parts.index(_MEASURED) - 1] if _MEASURED in parts else path.resolve().parent.name


def natural(name: str) -> tuple[Any, ...]:
    """Return a key that sorts fig4 before fig10, and single runs last."""
    return (name == SINGLE, *(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)))
