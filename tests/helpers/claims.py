"""A small experiments/ folder: measured rows, the paper's numbers, and claims about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROW = {"method": "preset", "treatment": "remove", "scale": "demo", "task": "classification", "data": "shapes", "size": "tiny",
       "device": "cpu", "keep_rate": 0.7, "cls": "learned", "status": "ok"}  # fmt: skip


def rows(label: str, scores: Sequence[float], **changes: Any) -> list[dict[str, Any]]:
    """Return rows of one configuration, one a seed, with these values of top1."""
    return [
        {"key": f"{label}{sorted(changes.items())}{seed}", "label": label, "seed": seed, "top1": value, **ROW, **changes}
        for seed, value in enumerate(scores)
    ]


def measured(experiments: Path, lines: Sequence[Mapping[str, Any]], file: str = "table.csv", experiment: str = "mine") -> None:
    """Write a measured file."""
    folder = experiments / experiment / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(lines)).to_csv(folder / file, index=False)


def expected(experiments: Path, lines: Sequence[Mapping[str, Any]], experiment: str = "mine") -> None:
    """Write a paper's numbers."""
    (experiments / experiment).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(lines)).to_csv(experiments / experiment / "expected.csv", index=False)


def declare(experiments: Path, pairs: str, measures: str = "[{in: mine, of: top1}]", rule: str = "better") -> Path:
    """Write claims.yaml with one claim."""
    path = experiments / "claims.yaml"
    experiments.mkdir(parents=True, exist_ok=True)
    text = f"Paper:\n  - {{claim: A is best., where: Table 9, rule: {rule}, measures: {measures}, pairs: {pairs}}}\n"
    path.write_text(text)
    return path
