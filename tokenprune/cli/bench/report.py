"""Writes findings as a table on the console, as CSV and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tokenprune.cli.bench.goals import Finding
from tokenprune.report.tables.formats import publish
from tokenprune.utils.environment import environment

FACTS = ("device", "torch", "timm", "python", "tokenprune", "commit", "dirty")


@dataclass(frozen=True)
class Table:
    """Holds a table for `report.tables.formats.publish`."""

    data: pd.DataFrame
    shown: pd.DataFrame
    blocks: Sequence[str]


def write(findings: Sequence[Finding], folder: Path, how: str) -> list[str]:
    """Print the findings and write them as folder/bench.csv and bench.md; return the names of the files."""
    facts = {key: value for key, value in environment().items() if key in FACTS}
    rows = [
        {
            "goal": f.goal, "case": f.case, "limit": f.limit, "direction": "at least" if f.at_least else "at most",
            "measured": f.value.median, "iqr": f.value.iqr, "rounds": f.value.rounds, "met": f.met,
            "curve": f.curve[0] if f.curve else None, "x": f.curve[1] if f.curve else None, **facts,
        }
        for f in findings
    ]  # fmt: skip
    shown = pd.DataFrame(
        {
            "goal": [f.goal for f in findings],
            "case": [f.case for f in findings],
            "limit": ["" if f.limit is None else f"{'>=' if f.at_least else '<='} {f.limit:g}" for f in findings],
            "measured": [_number(f.value.median) for f in findings],
            "IQR": [_number(f.value.iqr) for f in findings],
            "rounds": [str(f.value.rounds) for f in findings],
            "met": ["" if f.limit is None else "yes" if f.met else "NO" for f in findings],
        }
    )
    about = "\n".join([how, ", ".join(f"{key} {value}" for key, value in facts.items())])
    goals = [f for f in findings if f.limit is not None]
    missed = [f"{f.goal} ({f.case})" for f in goals if not f.met]
    met = f"{len(goals) - len(missed)} of {len(goals)} met" + (f"; missed: {', '.join(missed)}" if missed else "")
    folder.mkdir(parents=True, exist_ok=True)
    return publish(Table(pd.DataFrame(rows), shown, [met, about]), folder, "bench", "Benchmarks of the engine", latex=False)


def _number(value: float) -> str:
    return f"{value:.3f}" if value >= 1e-3 or not value else f"{value:.1e}"
