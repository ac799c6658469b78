"""Tells which rows of a sweep are better than others on the same images, budget by budget, and how far they agree with the dense model."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tokenprune.engine.schedule import TARGET
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import register
from tokenprune.report.insights.verdicts import UNDECIDED
from tokenprune.report.tables.rankings import in_sentences, judged, rankings
from tokenprune.runs.reports import Sweep
from tokenprune.runs.results import row_folder
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd

    from tokenprune.measure.paired import Paired

COLUMNS = [
    "budget", "seed", "first", "second", "first_top1", "second_top1", "images", "first_only", "second_only", "difference", "low", "high",
    "p", "p_holm", "better",
]  # fmt: skip
Row = Mapping[str, Any]
Budget = tuple[str, int]  # the budget in words, and the seed


class Answers(NamedTuple):
    """Holds a row with what it predicted.

    Attributes:
        row: The row.
        name: Its label, and its treatment if tokens are dropped; with the start of its key where another row of its budget has the same.
        predicted: The predicted class of each validation image, (n,).
        true: The true one, (n,).
    """

    row: Row
    name: str
    predicted: Any
    true: Any


@register("report", "paired")
@dataclass(frozen=True)
class PairedImages:
    """Compares classifiers of equal budget on the same images: paired differences, McNemar's exact test, agreement with the dense model.

    Each pair of rows is compared, and each row with the dense one. P-values of one budget are corrected for their number by Holm's
    procedure. Rows that are refused, such as a budget that a schedule cannot reach, are listed with the reason.

    Args:
        level: Corrected p-value below which a difference is decided.
    """

    expects: ClassVar[tuple[str, ...]] = ("invalid",)
    level: float = 0.05

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: The level is no probability.
        """
        if not 0 < self.level < 1:
            raise InvalidConfig(f"reports.paired.level is {self.level}; allowed: above 0 and below 1")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write paired.csv (a row a pair), paired.md (a table a budget, the best method first), and rankings.csv if papers rank methods."""
        rows, without = answered(sweep)
        dense = {a.row["seed"]: a for a in rows if a.row["treatment"] == "none"}
        table = pairs(rows, dense, self.level)
        refused = [f"- {row['label']}, {budget_of(row)}: {row['reason']}" for row in sweep.rows if row["status"] == "invalid"]
        papers = judged({budget: _rights(same) for budget, same in by_budget(rows).items()}, rankings(sweep.name), self.level)
        left_out = [in_sentences(papers), without, "\n".join(["Refused:", "", *refused]) if refused else ""]
        text = "\n\n".join([*(in_words(table, same, dense, name) for name, same in by_budget(rows).items()), *filter(None, left_out)])
        console.say(text)
        (sweep.folder / "paired.md").write_text(f"# {sweep.name}: paired by image\n\n{text}\n\n{_LEGEND}\n", encoding="utf-8")
        table.to_csv(sweep.folder / "paired.csv", index=False)
        if papers.empty:
            return ["paired.csv", "paired.md"]
        papers.to_csv(sweep.folder / "rankings.csv", index=False)
        return ["paired.csv", "paired.md", "rankings.csv"]


_LEGEND = (
    "Top-1 in points. Minus dense: the paired difference, with its 95 % interval. Agrees: share of images for which pruned and dense model"
    " predict the same class, right or wrong. Like the best: McNemar's exact test, corrected by Holm for the pairs of the budget, does not"
    " tell the row from the first one."
)


def answered(sweep: Sweep) -> tuple[list[Answers], str]:
    """Return the finished rows with their predictions, and a sentence on those that have none, or "" if there are none.

    Raises:
        TokenPruneError: Fewer than two rows have predictions, or rows saw different images.
    """
    rows, without = [], []
    for row in sweep.good:
        found = read(row, sweep.results_dir)
        without += [row["label"]] if found is None else []
        rows += [] if found is None else [found]
    if len(rows) < 2:
        raise TokenPruneError(
            f"paired: {len(rows)} finished rows of {sweep.name} have predictions of single images; allowed: two classifiers or more that"
            " were judged by this version (--fresh judges older ones again)"
        )
    other = [a.row["label"] for a in rows if len(a.true) != len(rows[0].true) or not bool((a.true == rows[0].true).all())]
    if other:
        raise TokenPruneError(f"paired: {other[0]} and {rows[0].row['label']} saw other images; allowed: rows of one validation split")
    return _told_apart(rows), f"Without predictions of single images, and left out: {', '.join(dict.fromkeys(without))}." if without else ""


def read(row: Row, results_dir: Path) -> Answers | None:
    """Return a row with its predictions; None if it has no file of them."""
    from tokenprune.runs.row import PER_IMAGE
    from tokenprune.utils.checkpoints import read_weights

    path = row_folder(results_dir, row["key"]) / PER_IMAGE
    if not path.is_file():
        return None
    tensors = read_weights(path)
    name = row["label"] if row["treatment"] == "none" else f"{row['label']}, {row['treatment']}"
    return Answers(row, name, tensors["predicted"], tensors["true"]) if {"predicted", "true"} <= tensors.keys() else None


def _told_apart(rows: Sequence[Answers]) -> list[Answers]:
    places = Counter((budget_of(a.row), a.row["seed"], a.name) for a in rows)
    twice = {place for place, count in places.items() if count > 1}
    return [a._replace(name=f"{a.name} ({a.row['key'][:4]})") if (budget_of(a.row), a.row["seed"], a.name) in twice else a for a in rows]


def by_budget(rows: Sequence[Answers]) -> dict[Budget, list[Answers]]:
    """Return the pruned rows of each budget and seed, in the order of the sweep."""
    found: dict[Budget, list[Answers]] = {}
    for answers in rows:
        if answers.row["treatment"] != "none":
            found.setdefault((budget_of(answers.row), answers.row["seed"]), []).append(answers)
    return found


def budget_of(row: Row) -> str:
    """Return the budget of a row in words: its target of GMAC, else its keep rate, else none of its own."""
    schedule = row["config"]["schedule"]
    if schedule.get(TARGET) is not None:
        return f"{schedule[TARGET]} GMAC" if isinstance(schedule[TARGET], (int, float)) else f"{schedule[TARGET]} of the dense GMAC"
    rate = schedule.get("keep_rate")
    return "published schedules" if rate is None else f"keep rate {rate:g}"


def pairs(rows: Sequence[Answers], dense: Mapping[int, Answers], level: float) -> "pd.DataFrame":
    """Return one line a pair of rows of equal budget and seed, and one for each row with the dense one of its seed.

    Columns: see `COLUMNS`; top-1 and differences in points.
    """
    import pandas as pd

    from tokenprune.measure.paired import compared, holm

    lines: list[dict[str, Any]] = []
    for (budget, seed), same in by_budget(rows).items():
        partners = [*combinations(same, 2), *((a, dense[seed]) for a in same if seed in dense)]
        found = [compared(_right(a), _right(b)) for a, b in partners]
        corrected = holm([pair.p for pair in found])
        for (a, b), pair, p in zip(partners, found, corrected, strict=True):
            lines.append({"budget": budget, "seed": seed, "first": a.name, "second": b.name, **_line(pair, p, level, a, b)})
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(pair: "Paired", corrected: float, level: float, a: Answers, b: Answers) -> dict[str, Any]:
    better = UNDECIDED if corrected >= level else (a if pair.difference > 0 else b).name
    low, high = pair.interval
    values = {"difference": pair.difference, "low": low, "high": high}
    return {
        "first_top1": round(_top1(a), 3), "second_top1": round(_top1(b), 3),
        "images": pair.images, "first_only": pair.first_only, "second_only": pair.second_only,
        **{name: round(value, 3) for name, value in values.items()}, "p": pair.p, "p_holm": corrected, "better": better,
    }  # fmt: skip


def in_words(table: "pd.DataFrame", same: Sequence[Answers], dense: Mapping[int, Answers], budget: Budget) -> str:
    """Return the rows of a budget as a Markdown table, the best first."""
    words, seed = budget
    here = table[(table["budget"] == words) & (table["seed"] == seed)]
    ranked = sorted(same, key=lambda a: -_top1(a))
    lines = [
        f"## {words}, seed {seed} ({len(same[0].true)} images)",
        "",
        "| Method | top-1 | minus dense | agrees | GMAC | like the best |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    if seed in dense:
        lines.append(f"| {dense[seed].name} | {_top1(dense[seed]):.2f} | | | {_gmac(dense[seed])} | |")
    lines += [_ranked(a, ranked[0], dense.get(seed), here) for a in ranked]
    return "\n".join(lines)


def _ranked(a: Answers, best: Answers, dense: Answers | None, here: "pd.DataFrame") -> str:
    from tokenprune.measure.paired import agreement

    gap, agrees = "", ""
    if dense is not None:
        pair = here[(here["first"] == a.name) & (here["second"] == dense.name)].iloc[0]
        gap = f"{pair['difference']:+.2f} ({pair['low']:+.2f} to {pair['high']:+.2f})"
        agrees = f"{agreement(a.predicted, dense.predicted):.1f}"
    both = {a.name, best.name}
    decided = here[here["first"].isin(both) & here["second"].isin(both)]["better"]
    like = "best" if a is best else "yes" if (decided == UNDECIDED).all() else "no"
    return f"| {a.name} | {_top1(a):.2f} | {gap} | {agrees} | {_gmac(a)} | {like} |"


def _rights(same: Sequence[Answers]) -> dict[str, Any]:
    return {a.row["label"]: _right(a) for a in same}


def _right(answers: Answers) -> Any:
    return answers.predicted == answers.true


def _top1(answers: Answers) -> float:
    return 100 * _right(answers).double().mean().item()


def _gmac(answers: Answers) -> str:
    gmac = answers.row["cost"].get("gmac_total", math.nan)
    return "" if math.isnan(gmac) else f"{gmac:.3g}"
