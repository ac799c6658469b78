"""Defines the report on aims: how far rows may stay behind the dense one, and whether they do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tokenprune.registry import register
from tokenprune.report.tables.scores import TITLES
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console
from tokenprune.utils.settings import check_types, one_of


@register("report", "aims")
@dataclass(frozen=True)
class Aims:
    """Says for each row whether it meets its aim, yes or no, and writes aims.md; nothing at other scales and without a dense row.

    Args:
        score: The score that is looked at, such as ap_box. Rows of several seeds count by their mean.
        dense: Least score of the dense row.
        treatments: {treatment: points that its rows may stay behind the dense one}, of several dense rows behind the best.
        methods: {label: points}, which go before those of the treatment.
        scale: The scale that the aims are for.
    """

    score: str = "ap_box"
    dense: float = 55.0
    treatments: Mapping[str, Any] = field(default_factory=lambda: {"remove": 10.0, "preserve": 4.0})
    methods: Mapping[str, Any] = field(default_factory=dict)
    scale: str = "demo"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: The score is unknown, or a value has a wrong type.
        """
        check_types(self, "reports.aims")
        one_of("reports.aims", "score", self.score, list(TITLES))

    def __call__(self, sweep: Sweep) -> list[str]:
        """Print and write the aims."""
        rows = [row for row in sweep.good if row["scale"] == self.scale and self.score in row["metrics"]]
        lines = list(self.lines(rows))
        if not lines:
            return []
        title = TITLES[self.score]
        text = "\n".join([f"Aims of scale={self.scale}, {title}:", *lines])
        console.say(text)
        (sweep.folder / "aims.md").write_text(f"# {sweep.name}: aims\n\n{text}\n", encoding="utf-8")
        return ["aims.md"]

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Yield a line a configuration, each with its aim, its number, and yes or no."""
        groups: dict[tuple[str, str, Any], list[float]] = {}
        for row in rows:
            rate = row["config"].get("schedule", {}).get("keep_rate")
            groups.setdefault((row["label"], row["treatment"], rate), []).append(row["metrics"][self.score])
        whole = {label: fmean(scores) for (label, treatment, _), scores in groups.items() if treatment == "none"}
        if not whole:
            return
        best = max(whole, key=lambda label: whole[label])
        for (label, treatment, rate), scores in groups.items():
            score = fmean(scores)
            if treatment == "none":
                yield f"- {label} at least {self.dense:g}: {score:.1f}, {_word(score >= self.dense)}"
                continue
            allowed = self.methods.get(label, self.treatments.get(treatment))
            if allowed is not None:
                behind = whole[best] - score
                at = "" if rate is None else f" at {rate:g}"
                yield f"- {label}, {treatment}{at}, at most {allowed:g} behind {best}: {behind:.1f}, {_word(behind <= allowed)}"


def _word(met: bool) -> str:
    return "yes" if met else "no"
