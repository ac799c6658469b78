"""Tells which rows of a sweep are better than others on the same pictures, budget by budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.report.insights.verdicts import UNDECIDED
from tokenprune.report.tables.judged_rows import Answers, Budget, Judged, Resamples, budget_of, by_budget, dense_of, gmac_of, judged_rows
from tokenprune.report.tables.rankings import in_sentences, judged, rankings
from tokenprune.report.tables.scores import TITLES
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd


@register("report", "paired")
@dataclass(frozen=True)
class PairedImages:
    """Compares rows of equal budget on the same pictures: paired differences with intervals, and a test corrected for their number.

    Classifiers are compared image by image, by McNemar's exact test, with their agreement with the dense model. Detectors and segmenters
    are compared over the resamples of the validation pictures that their standard errors are of: the same easy and hard pictures move both
    rows, so that their difference has a smaller error than either row. Each pair of rows is compared, and each row with those that drop
    nothing. P-values of one budget are corrected for their number by Holm's procedure. Rows that are refused, such as a budget that a
    schedule cannot reach, are listed with the reason. Rows of earlier versions, which have no file of their pictures, are named.

    Args:
        level: Corrected p-value below which a difference is decided.
        refusals: Whether rows that are refused are expected. If not, a table with such a row is one with a bad row, as without this report.
    """

    level: float = 0.05
    refusals: bool = True

    @property
    def expects(self) -> tuple[str, ...]:
        """Return the statuses of rows that are not bad."""
        return ("invalid",) if self.refusals else ()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: The level is no probability.
        """
        if not 0 < self.level < 1:
            raise InvalidConfig(f"reports.paired.level is {self.level}; allowed: above 0 and below 1")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write paired.csv (a row a pair), paired.md (a table a budget, the best method first), and rankings.csv if papers rank methods.

        Nothing is written, and that is said, if fewer than two rows can be compared.
        """
        rows, without = judged_rows(sweep)
        if len(rows) < 2:
            console.warn(
                f"paired: {len(rows)} of the {len(sweep.good)} finished rows of {sweep.name} have a file of what was found for their"
                " pictures, so that none are compared; --fresh judges rows of earlier versions again"
            )
            return []
        dense = dense_of(rows)
        table = pairs(rows, dense, self.level)
        refused = [f"- {row['label']}, {budget_of(row)}: {row['reason']}" for row in sweep.rows if row["status"] == "invalid"]
        rights = {budget: _rights(same) for budget, same in by_budget(rows).items()}
        papers = judged(rights, rankings(sweep.name), self.level)
        missing = f"Without a file of their pictures, and left out: {', '.join(without)}." if without else ""
        left_out = [in_sentences(papers), missing, "\n".join(["Refused:", "", *refused]) if refused else ""]
        text = "\n\n".join([*(in_words(table, same, dense, name) for name, same in by_budget(rows).items()), *filter(None, left_out)])
        console.say(text)
        (sweep.folder / "paired.md").write_text(f"# {sweep.name}: paired by image\n\n{text}\n\n{_legend(rows[0])}\n", encoding="utf-8")
        table.to_csv(sweep.folder / "paired.csv", index=False)
        if papers.empty:
            return ["paired.csv", "paired.md"]
        papers.to_csv(sweep.folder / "rankings.csv", index=False)
        return ["paired.csv", "paired.md", "rankings.csv"]


def pairs(rows: Sequence[Judged], dense: Mapping[int, Sequence[Judged]], level: float) -> "pd.DataFrame":
    """Return one line a metric and pair of rows of equal budget and seed, and one for each row with those of its seed that drop nothing.

    Columns: budget, seed, first, second, those of `Judged.columns`, difference, low, high, p, p_holm, better; scores in points.
    """
    import pandas as pd

    from tokenprune.measure.paired import holm

    lines: list[dict[str, Any]] = []
    for (budget, seed), same in by_budget(rows).items():
        partners = [*combinations(same, 2), *((a, whole) for a in same for whole in dense.get(seed, ()))]
        for metric in rows[0].metrics:
            found = [a.against(b, metric) for a, b in partners]
            for (a, b), pair, p in zip(partners, found, holm([pair.p for pair in found]), strict=True):
                names = {"budget": budget, "seed": seed, "first": a.name, "second": b.name}
                low, high = pair.interval
                gap = {key: round(value, 3) for key, value in (("difference", pair.difference), ("low", low), ("high", high))}
                better = UNDECIDED if p >= level else (a if pair.difference > 0 else b).name
                lines.append({**names, **a.facts(b, metric, pair), **gap, "p": pair.p, "p_holm": p, "better": better})
    columns = ["budget", "seed", "first", "second", *rows[0].columns, "difference", "low", "high", "p", "p_holm", "better"]
    return pd.DataFrame(lines, columns=columns)


def in_words(table: "pd.DataFrame", same: Sequence[Judged], dense: Mapping[int, Sequence[Judged]], budget: Budget) -> str:
    """Return the rows of a budget as a Markdown table, the best first, and differences of a method's treatments where it has several.

    Of several rows that drop nothing, the others are held against the best.
    """
    words, seed = budget
    here = table[(table["budget"] == words) & (table["seed"] == seed)]
    metrics, wholes = same[0].metrics, sorted(dense.get(seed, ()), key=lambda one: -one.score(same[0].metrics[0]))
    whole = next(iter(wholes), None)
    ranked = sorted(same, key=lambda one: -one.score(metrics[0]))
    agrees = isinstance(same[0], Answers)
    minus = f"minus {whole.name}" if whole is not None and len(wholes) > 1 else "minus dense"
    head = [cell for metric in metrics for cell in (TITLES.get(metric, metric), minus)]
    head = ["Method", *head, *["agrees"] * agrees, "GMAC", "like the best"]
    lines = [f"## {words}, seed {seed} ({same[0].pictures} {'images' if agrees else 'pictures'})", ""]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in wholes:
        scores = [cell for metric in metrics for cell in (f"{one.score(metric):.2f}", "")]
        lines.append(f"| {' | '.join([one.name, *scores, *[''] * agrees, gmac_of(one), ''])} |")
    lines += [f"| {' | '.join(_ranked(one, ranked[0], whole, here))} |" for one in ranked]
    return "\n\n".join(filter(None, ["\n".join(lines), _treatments(here, same)]))


def _ranked(one: Judged, best: Judged, dense: Judged | None, here: "pd.DataFrame") -> list[str]:
    """Return the cells of a row."""
    scores = [cell for metric in one.metrics for cell in (f"{one.score(metric):.2f}", _gap(_pair(here, one, dense, metric)))]
    main = _pair(here, one, best, one.metrics[0])
    like = "best" if one is best else "yes" if (main["better"] == UNDECIDED).all() else "no"
    return [one.name, *scores, *_agrees(one, dense), gmac_of(one), like]


def _agrees(one: Judged, dense: Judged | None) -> list[str]:
    """Return the cell that says for which share of images a classifier predicts what the dense one does; none for other models."""
    from tokenprune.measure.paired import agreement

    if not isinstance(one, Answers):
        return []
    return [f"{agreement(one.predicted, dense.predicted):.1f}" if isinstance(dense, Answers) else ""]


def _pair(here: "pd.DataFrame", one: Judged, other: Judged | None, metric: str) -> "pd.DataFrame":
    """Return the line of two rows, whichever of them is the first; an empty table if there is no other."""
    both = set() if other is None else {one.name, other.name}
    found = here[here["first"].isin(both) & here["second"].isin(both)]
    return found[found["metric"] == metric] if "metric" in found else found


def _gap(pair: "pd.DataFrame") -> str:
    """Return the difference of a line with its interval, "" for none."""
    if pair.empty:
        return ""
    line = pair.iloc[0]
    return f"{line['difference']:+.2f} ({line['low']:+.2f} to {line['high']:+.2f})"


def _treatments(here: "pd.DataFrame", same: Sequence[Judged]) -> str:
    """Return a list of the differences of rows of one label and several treatments, "" without any."""
    lines = []
    for one, other in combinations(same, 2):
        if one.row["label"] == other.row["label"] and one.row["treatment"] != other.row["treatment"]:
            first, second = (one, other) if one.row["treatment"] != "remove" else (other, one)
            found = [(metric, _pair(here, first, second, metric).iloc[0]) for metric in one.metrics]
            said = [_turned(line, first, TITLES.get(metric, metric)) for metric, line in found]
            lines.append(f"- {first.row['label']}, {first.row['treatment']} minus {second.row['treatment']}: {'; '.join(said)}")
    return "\n".join(["The same method with another treatment:", "", *lines]) if lines else ""


def _turned(line: Mapping[str, Any], first: Judged, title: str) -> str:
    """Return a line in words, as the difference of `first` and the other row."""
    sign = 1 if line["first"] == first.name else -1
    low, high = sorted((sign * line["low"], sign * line["high"]))
    verdict = UNDECIDED if line["better"] == UNDECIDED else "decided"
    return f"{title} {sign * line['difference']:+.2f} ({low:+.2f} to {high:+.2f}), {verdict}"


def _rights(same: Sequence[Judged]) -> dict[str, Any]:
    """Return whether each image is right by label, of classifiers."""
    return {one.row["label"]: one.right for one in same if isinstance(one, Answers)}


def _legend(one: Judged) -> str:
    """Return what the words and the numbers of a table mean."""
    if not isinstance(one, Resamples):
        return (
            "Top-1 in points. Minus dense: the paired difference, with its 95 % interval. Agrees: share of images for which pruned and"
            " dense model predict the same class, right or wrong. Like the best: McNemar's exact test, corrected by Holm for the pairs"
            " of the budget, does not tell the row from the first one."
        )
    count = len(next(iter(one.found.values.values())))
    sure = f"which tell the error itself to about {100 / math.sqrt(2 * (count - 1)):.0f} %"
    return (
        "Scores in points. A difference is that of two rows on the same pictures, with its 95 % interval: 1.96 standard deviations of it"
        f" over {count} resamples of the pictures, the same for both rows, {sure}. Like the best: a normal test of the first score,"
        " corrected by Holm for the pairs of the budget, does not tell the row from the first one; decided: it tells the two rows apart."
        " This is the chance of the pictures alone: training with another seed makes another row and moves its scores as well."
    )
