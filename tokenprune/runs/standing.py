"""How far a sweep is, in one line: rows done, running and left, and the time that is left. It reads the notes on disk."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.utils.files import atomic_write, saving

_PLAN = "plan.json"  # in the folder of a sweep's notes


def plan_rows(folder: Path | str, rows: int) -> None:
    """Note how many rows a sweep has, and when it began."""
    path = Path(folder) / _PLAN
    text = json.dumps({"rows": rows, "begun": time.time()})
    with saving(path):  # a line less is said where there is no room for it
        atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def standing(folder: Path | str) -> str:
    """Return the line; "" for a sweep of one row, of unknown size, or that is done.

    The time left is what a row has taken so far, on the wall clock and with all that ran beside it, times the rows that are not done.
    Rows that were read from disk do not count as such.
    """
    from tokenprune.runs.sweep import read_notes

    path = Path(folder) / _PLAN
    if not path.is_file():
        return ""
    plan, notes = json.loads(path.read_text(encoding="utf-8")), read_notes(folder)
    running = sum(note.get("running", False) for note in notes)
    done = len(notes) - running
    left = plan["rows"] - len(notes)
    if plan["rows"] < 2 or running + left <= 0:
        return ""
    made = sum(note.get("made", False) for note in notes)
    return f"{done} of {plan['rows']} rows done, {running} running, {left} left{_time(plan, made, running + left)}"


def _time(plan: Mapping[str, Any], made: int, remaining: int) -> str:
    if not made:
        return ""
    seconds = (time.time() - plan["begun"]) / made * remaining
    return f"; about {in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """Return a time in seconds, minutes, hours or days, whichever suits."""
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{max(1, round(seconds))} s"
