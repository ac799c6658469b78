"""Runs parts within a time budget; what is done lies in files, and the same command goes on where the last one ended."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.cli.gpu.cases import Case, Part, Row, Setup, attempted
from tokenprune.cli.gpu.machine import SAME
from tokenprune.errors import ResultSchemaError
from tokenprune.utils import console
from tokenprune.utils.files import atomic_write

_TEXT = dict.fromkeys(("reason", *SAME, "commit"), object)  # read as they were written: a version is no number


class Clock:
    """Tells how many seconds of a budget are left.

    Args:
        seconds: The budget; it begins now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._begun = seconds, time.monotonic()

    @property
    def left(self) -> float:
        """Return the seconds that are left, 0 or more."""
        return max(0.0, self.seconds - (time.monotonic() - self._begun))


def run(parts: Sequence[Part], setup: Setup, out: Path, clock: Clock, facts: Mapping[str, Any]) -> list[Part]:
    """Run parts in their order, and return those that are not finished.

    Each part first gets its share of the time. What is left then goes to parts that are not finished, in their order.

    Raises:
        ResultSchemaError: The folder holds rows of another device, driver or torch.
    """
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        _check(part, out, facts)
    for share in (True, False):
        for part in [part for part in parts if not finished(part, out)]:
            budget = min(clock.left, part.share * clock.seconds) if share else clock.left
            _run(part, setup, out, Clock(budget), facts)
    return [part for part in parts if not finished(part, out)]


def finished(part: Part, out: Path) -> bool:
    """Tell whether the file of a part is there."""
    return (out / f"{part.name}.csv").is_file()


def rows_of(part: Part, out: Path) -> pd.DataFrame:
    """Return the rows of a part so far, finished or not; an empty table if there are none."""
    path = next((path for path in _files(part, out) if path.is_file()), None)
    return pd.DataFrame() if path is None else pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=_TEXT).fillna({"reason": ""})


def _files(part: Part, out: Path) -> tuple[Path, Path]:
    """Return the files of a finished part and of one that has only begun."""
    return out / f"{part.name}.csv", out / f"{part.name}.partial.csv"


def _run(part: Part, setup: Setup, out: Path, clock: Clock, facts: Mapping[str, Any]) -> None:
    whole, begun = _files(part, out)
    rows: list[Row] = [] if not begun.is_file() else rows_of(part, out).to_dict("records")  # type: ignore[assignment]
    rows = [row for row in rows if row["status"] != "failed"]  # it may have been the machine's fault
    done = {row["case"] for row in rows}
    waiting: list[Case] = [case for case in part.cases(setup) if case.name not in done] if clock.left else []
    complete = bool(clock.left)
    for case in console.progress(waiting, part.name):
        if not clock.left or clock.left < case.needs:
            complete = False
            continue
        begin = time.monotonic()
        found = attempted(case)
        seconds = round((time.monotonic() - begin) / max(1, len(found)), 3)
        rows += [{"part": part.name, **row, "seconds_taken": seconds, **facts} for row in found]
        _write(rows, begun)
    if complete:
        _write(rows, whole)
        begun.unlink(missing_ok=True)
        console.say(f"{part.name}: {len(rows)} rows, written to {whole}")
    elif rows:
        console.say(f"{part.name}: {len(rows)} rows so far, {begun}")


def _write(rows: Sequence[Row], path: Path) -> None:
    atomic_write(path, lambda file: pd.DataFrame(rows).to_csv(file, index=False))


def _check(part: Part, out: Path, facts: Mapping[str, Any]) -> None:
    found = rows_of(part, out)
    there = {name: found[name].iloc[0] for name in SAME if len(found)}
    wrong = [f"{name} {value}, this machine has {facts[name]}" for name, value in there.items() if value != facts[name]]
    if wrong:
        raise ResultSchemaError(f"{out / part.name}.csv holds rows of {'; '.join(wrong)}; give another folder: --out FOLDER")
    if len(found) and finished(part, out):
        commits = ", ".join(dict.fromkeys(str(commit)[:10] for commit in found["commit"]))
        console.say(f"{part.name}: read from disk, made at commit {commits}; remove {out / part.name}.csv to measure it again")
