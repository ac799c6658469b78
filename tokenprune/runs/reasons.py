"""Reasons of rows that are not ok, as people read them: short, each once, with the file that holds the rest."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.runs.results import row_folder

ENDED_AS = ", which ended as "  # before the status and the reason of a row that another one starts from
_LENGTH = 240
_REST = "the rest is in"
_NAMES = 3
_PLACE = re.compile(r" \(\S+:\d+\)$")  # where an error was raised, see `errors.reason_of`


def shortened(reason: str, folder: Path | str | None = None) -> str:
    """Return a reason in about `_LENGTH` letters, with the file that holds the rest or the traceback, if there is one.

    Args:
        reason: The reason.
        folder: Folder of the row, which has `error.txt` if the row failed.
    """
    rest = None if folder is None else Path(folder) / "error.txt"
    there = rest is not None and rest.is_file()
    raised = _PLACE.search(reason)
    if _REST in reason:
        return reason
    if len(reason) <= _LENGTH:
        return reason + (f" (traceback: {rest})" if raised and there else "")
    begun = reason[:_LENGTH].rsplit(" ", 1)[0].rstrip(" ;,:") + " ..." + (raised.group() if raised else "")
    return begun + (f" ({_REST} {rest})" if there else "")


def root_of(reason: str) -> str:
    """Return the beginning of the reason of the row that failed first; rows that start from it repeat it."""
    own = reason.rsplit(ENDED_AS, 1)[-1].partition(": ")[2] if ENDED_AS in reason else reason
    return own.partition(" ...")[0][: _LENGTH // 2]


def grouped(notes: Sequence[Mapping[str, Any]], results_dir: str) -> list[str]:
    """Return a line for each distinct reason of rows that are not ok: the names of its rows, the status, the reason.

    Args:
        notes: Notes of these rows (see `sweep.read_notes`).
        results_dir: The results folder.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for note in notes:
        groups.setdefault((note["row"]["status"], root_of(note["row"]["reason"])), []).append(note)
    return [_line(found, results_dir) for found in groups.values()]


def _line(notes: Sequence[Mapping[str, Any]], results_dir: str) -> str:
    names = list(dict.fromkeys(note["name"] for note in notes))
    listed = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
    row = min((note["row"] for note in notes), key=lambda row: ENDED_AS in row["reason"])  # the row that failed first, if it is there
    return f"{listed}: {row['status']}: {shortened(row['reason'], row_folder(results_dir, row['key']))}"
