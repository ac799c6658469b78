"""Writes the command line that makes a row: as it was typed, or put together of what the row says of itself."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune.runs.rows import rows_of, tables
from tokenprune.runs.sources import folder_options

_SURROUNDING = re.compile(r"(results_dir|validate_only|fresh|export_weights|launcher|reports|tracking|hydra)\b")  # of a run, not of its row
_DEFAULT_SCALE = "demo"


def command_of(words: Sequence[str]) -> str:
    """Return the command line of a run without words that say where its row lies or how it is started.

    Args:
        words: The overrides of the run as Hydra has them.
    """
    kept = [word for word in words if not _SURROUNDING.match(word.lstrip("+~"))]
    return shlex.join(["tokenprune", "run", *folder_options(), *kept])


def derived(row: Mapping[str, Any]) -> str:
    """Return a command line that makes such a row, of the row's names; other settings, such as `data.root`, are not in it.

    Args:
        row: experiment ("" for none), method, treatment, keep_rate (NaN or None for none), cls, scale and seed.
    """
    found = _listed(row)
    words = [f"+experiment={row['experiment']}", f"+rows/{row['experiment']}={found}"] if found else _choices(row)
    words += [f"scale={row['scale']}"] if row["scale"] != _DEFAULT_SCALE else []
    return shlex.join(["tokenprune", "run", *words, *([f"seed={row['seed']}"] if row["seed"] else [])])


def _choices(row: Mapping[str, Any]) -> list[str]:
    rate = row["keep_rate"]
    words = [f"task={row['task']}", f"data={row['data']}", f"method={row['method']}"]
    words += [f"treatment={row['treatment']}"] if row["treatment"] != "none" else []
    words += [f"cls={row['cls']}"] if row["cls"] in ("random", "mean") else []
    return words + ([f"schedule.keep_rate={rate:g}"] if rate is not None and rate == rate else [])


def _listed(row: Mapping[str, Any]) -> str:
    """Return the name of the only row of the experiment's table that fits; "" if none or several do."""
    if row["experiment"] not in tables():
        return ""
    found = [name for name, choices in rows_of(row["experiment"]).items() if _fits(choices, row)]
    return found[0] if len(found) == 1 else ""


def _fits(choices: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    rate = choices.get("schedule.keep_rate")
    said = {name: choices[name] for name in ("method", "treatment", "cls") if name in choices}
    return "method" in said and all(row[name] == value for name, value in said.items()) and (rate is None or rate == row["keep_rate"])
