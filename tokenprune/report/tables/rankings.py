"""Tells of rankings that papers print whether they hold, do not hold or stay undecided on the images of a sweep."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.report.insights.verdicts import FAILS, HOLDS, UNDECIDED
from tokenprune.utils.paths import file_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["budget", "seed", "first", "second", "images", "difference", "low", "high", "p", "p_holm", "verdict", "source", "note"]


@dataclass(frozen=True)
class Ranking:
    """Holds what a paper says: one method is better than another at equal compute.

    Args:
        first: Label of the better one.
        second: Label of the other.
        source: Where it is printed.
        note: What differs there from a comparison without training of classifiers.
    """

    first: str
    second: str
    source: str
    note: str = ""


def rankings(experiment: str) -> list[Ranking]:
    """Return the lines of experiments/<experiment>/rankings.csv; none where there is no such file."""
    path = file_of(experiment, "rankings.csv")
    if path is None:
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Ranking(**line) for line in csv.DictReader(file)]


def judged(budgets: Mapping[tuple[str, int], Mapping[str, Any]], claims: Sequence[Ranking], level: float) -> "pd.DataFrame":
    """Return one line for each ranking and budget that has both methods, with the verdict.

    McNemar's exact test decides, corrected by Holm for the rankings of the budget.

    Args:
        budgets: {(budget, seed): {label: whether each image is right, (n,) bool}}.
        claims: The rankings.
        level: Corrected p-value below which a difference is decided.
    """
    import pandas as pd

    from tokenprune.measure.paired import compared, holm

    lines: list[dict[str, Any]] = []
    for (budget, seed), right in budgets.items():
        here = [claim for claim in claims if claim.first in right and claim.second in right]
        found = [compared(right[claim.first], right[claim.second]) for claim in here]
        for claim, pair, p in zip(here, found, holm([pair.p for pair in found]), strict=True):
            verdict = UNDECIDED if p >= level else HOLDS if pair.difference > 0 else FAILS
            low, high = (round(end, 3) for end in pair.interval)
            values = (pair.images, round(pair.difference, 3), low, high, pair.p, p, verdict, claim.source, claim.note)
            lines.append(dict(zip(COLUMNS, (budget, seed, claim.first, claim.second, *values), strict=True)))
    return pd.DataFrame(lines, columns=COLUMNS)


def in_sentences(found: "pd.DataFrame") -> str:
    """Return a Markdown list of the verdicts, "" without any."""
    if found.empty:
        return ""
    head = "Of each ranking: the paired difference of top-1 at each budget, with its 95 % interval, and the verdict."
    lines = ["## What papers say", "", head, ""]
    for (first, second, source), same in found.groupby(["first", "second", "source"], sort=False):
        told, note = "; ".join(at_budget(line) for line in same.to_dict("records")), str(same["note"].iloc[0])
        lines.append(f"- {first} above {second} ({source}): {told}.{f' {note}' if note else ''}")
    return "\n".join(lines)


def at_budget(line: Mapping[str, Any]) -> str:
    """Return a line of `judged` in words."""
    short = str(line["budget"]).removesuffix(" of the dense GMAC")
    return f"{short} {line['difference']:+.1f} ({line['low']:+.1f} to {line['high']:+.1f}) {line['verdict']}"
