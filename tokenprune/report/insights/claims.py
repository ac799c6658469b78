"""Compares SViT's four insights (section 3.2) with rows that differ in one fact of their configuration and agree in the rest."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Any

from tokenprune.report.insights.power import Power, power_of
from tokenprune.report.insights.verdicts import LEAST, UNDECIDED, decided, spread_over_seeds, together
from tokenprune.report.tables.expected import Expected, size_of
from tokenprune.report.tables.seeds import Difference, configuration, paired
from tokenprune.utils.paths import expected_of

Config = Mapping[str, Any]
Row = Mapping[str, Any]
METRICS = {"ap_box": "box AP", "ap_mask": "mask AP"}
_TABLE3 = {
    ("batch", "reactivate"): "SViT dynamic, reactivation",
    ("image", "reactivate"): "SViT fixed, reactivation",
    ("batch", "preserve"): "SViT dynamic, no reactivation",
    ("image", "preserve"): "SViT fixed, no reactivation",
}
_TABLE4 = {"mlp": "SViT 2-layer MLP", "complex": "SViT complex gate"}


@dataclass(frozen=True)
class Claim:
    """States one insight: configurations whose `fact` is `first` are compared with those whose `fact` is `second`.

    Args:
        name: Name of the insight.
        text: The paper's statement.
        differs: How the compared rows differ, in words.
        fact: Reads the fact that differs from a configuration.
        first: Value of the fact on the first side.
        second: Value of the fact on the second side.
        rest: Returns a configuration without the fact; both sides must agree in it.
        rule: See `verdicts.RULES`.
        experiment: Experiment that holds the paper's numbers.
        label: Returns the name of a row in that experiment's expected.csv.
        by_treatment: Whether treatments count there.
    """

    name: str
    text: str
    differs: str
    fact: Callable[[Config], Any]
    first: str
    second: str
    rest: Callable[[Config], Config]
    rule: str
    experiment: str
    label: Callable[[Row], str]
    by_treatment: bool = False


@dataclass(frozen=True)
class Comparison:
    """Holds one claim, one pair of configurations, one metric.

    Args:
        claim: The claim.
        first: The first of the compared rows, in words.
        second: The second of the compared rows, in words.
        setting: Keep rate, class token and size if pairs of the same names differ in them, else "".
        keep_rate: The keep rate of the two.
        metric: The metric.
        gap: First minus second; None if no seed has both.
        level: The better mean of the two; NaN if neither has a result.
        spread: Standard deviation over seeds of one configuration, pooled over the two (NaN with one seed each).
        shares: Mean kept share of the two; NaN if neither has a result.
        paper: The paper's difference; NaN if it has none.
        pictures_error: Standard error over validation pictures of the difference of two rows, as if they had seen different ones; NaN if
            rows have no standard errors.
        missing: The rows without a result, in words.
    """

    claim: Claim
    first: str
    second: str
    setting: str
    keep_rate: float | None
    metric: str
    gap: Difference | None
    level: float
    spread: float
    shares: tuple[float, float]
    paper: float
    pictures_error: float = math.nan
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return the verdict of the seeds by the claim's rule; it is undecided if neither side has learnt to detect."""
        if self.gap is None or self.level < LEAST:
            return UNDECIDED
        return decided(self.gap, self.claim.rule, self.spread, able=self.power is None or self.power.able)

    @property
    def power(self) -> Power | None:
        """Return what the seeds could show of the paper's difference; None if it has none, or if the claim is one of equality."""
        return None if self.gap is None or self.claim.rule != "better" else power_of(self.paper, self.gap, self.pictures_error)


def _at(config: Any, *path: str) -> Any:
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _treatment(config: Config) -> Any:
    return _at(config, "treatment", "name")


def _form(config: Config) -> Any:
    return _at(config, "losses", "ratio", "form")


def _gate(config: Config) -> Any:
    return _at(config, "selector", "gate")


def _rate(config: Config) -> Any:
    return _at(config, "schedule", "keep_rate")


def _without(config: Config, section: str, *path: str) -> Config:
    """Return a configuration without one value, or without a whole section."""
    if not path:
        return {key: value for key, value in config.items() if key != section}
    inner = config.get(section)
    return {**config, section: _without(inner, *path)} if isinstance(inner, Mapping) else config


def _table3(row: Row) -> str:
    config = row["config"]
    return _TABLE3.get((_form(config), _treatment(config)), "") if _gate(config) == "mlp" else ""


def _table4(row: Row) -> str:
    config = row["config"]
    return _TABLE4.get(_gate(config), "") if (_form(config), _treatment(config)) == ("batch", "reactivate") else ""


CLAIMS = (
    Claim(
        "preserve", "preserving dropped tokens is better than removing them", "their treatment", _treatment, "preserve", "remove",
        lambda config: _without(config, "treatment"), "better", "table2_preserve", lambda row: row["label"], by_treatment=True,
    ),
    Claim(
        "reactivate", "letting dropped tokens come back is better than not",
        "their treatment, and their schedule: without reactivation gates of equal targets are merged into one", _treatment, "reactivate",
        "preserve", lambda config: {**_without(config, "treatment"), "schedule": {"keep_rate": _rate(config)}}, "better",
        "table3_reactivation", _table3,
    ),
    Claim(
        "dynamic", "a keep rate of its own for each image is better than one for all", "their ratio loss: Eq. 2 against Eq. 3", _form,
        "batch", "image", lambda config: _without(config, "losses", "ratio", "form"), "better", "table3_reactivation", _table3,
    ),
    Claim(
        "mlp", "a 2-layer MLP gate is as good as a complex one", "their gate", _gate, "mlp", "complex",
        lambda config: _without(config, "selector", "gate"), "as good", "table4_gating", _table4,
    ),
)  # fmt: skip


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Return every comparison that the rows allow: claim by claim, pairs in the order of the rows, each with all of `METRICS` in turn."""
    found = []
    digests = [configuration(row["config"]) for row in rows]
    for claim in CLAIMS:
        pairs = [(_names(one[0], two[0]), one, two) for one, two in _pairs(claim, rows, digests)]
        for names, one, two in pairs:
            setting = _setting(one[0], [other[0] for same, other, _ in pairs if same == names])
            found += _comparisons(claim, names, setting, one, two)
    return found


def _pairs(claim: Claim, rows: Sequence[Row], digests: Sequence[str]) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield the rows (one a seed) of configurations that differ in the claim's fact alone."""
    sides: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row, digest in zip(rows, digests, strict=True):
        side = claim.fact(row["config"])
        if side in (claim.first, claim.second):
            same = sides.setdefault((configuration(claim.rest(row["config"])), side), {})
            same.setdefault(digest, []).append(row)
    for (rest, side), firsts in sides.items():
        if side == claim.first:
            yield from ((one, two) for one in firsts.values() for two in sides.get((rest, claim.second), {}).values())


def _comparisons(claim: Claim, names: tuple[str, str], setting: str, one: list[Row], two: list[Row]) -> Iterator[Comparison]:
    rows = [(names[0], row) for row in one] + [(names[1], row) for row in two]
    bad = [f"{name}, seed {row['seed']}: {row['status']}: {row['reason']}" for name, row in rows if row["status"] != "ok"]
    shares = tuple(_mean([row["cost"]["kept_share"] for row in rows if "kept_share" in row["cost"]]) for rows in (one, two))
    for metric in METRICS:
        values = [{row["seed"]: row["metrics"][metric] for row in rows if metric in row["metrics"]} for rows in (one, two)]
        level = max((fmean(found.values()) for found in values if found), default=math.nan)
        yield Comparison(
            claim, *names, setting, _rate(one[0]["config"]), metric, paired(*values), level, spread_over_seeds(values), shares,
            _paper(claim, one[0], metric) - _paper(claim, two[0], metric), _pictures_error((one, two), metric), bad,
        )  # fmt: skip


def _names(one: Row, two: Row) -> tuple[str, str]:
    alike = one["label"] == two["label"]
    return tuple(f"{row['label']} {row['treatment']}" if alike else row["label"] for row in (one, two))


def _setting(row: Row, same: Sequence[Row]) -> str:
    facts = {"keep rate": lambda r: _rate(r["config"]), "CLS": lambda r: r["cls"], "size": lambda r: size_of(r["config"])}
    return ", ".join(f"{name} {fact(row)}" for name, fact in facts.items() if len({fact(other) for other in same}) > 1)


def _pictures_error(sides: tuple[list[Row], list[Row]], metric: str) -> float:
    """Return the combined standard error over pictures of two rows, each the mean over its seeds; NaN if a side has none."""
    errors = [_mean([row["metrics"][f"{metric}_se"] for row in rows if f"{metric}_se" in row["metrics"]]) for rows in sides]
    return math.hypot(*errors)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


@lru_cache
def _expected(experiment: str) -> Expected | None:
    path = expected_of(experiment)
    return None if path is None else Expected(path)


def _paper(claim: Claim, row: Row, metric: str) -> float:
    expected = _expected(claim.experiment)
    if expected is None:
        return math.nan
    treatment = {"treatment": row["treatment"]} if claim.by_treatment else {}
    where = {"keep_rate": _rate(row["config"]), "size": size_of(row["config"]), "cls": row["cls"], **treatment}
    number = expected.number(metric, method=claim.label(row), **where)
    return math.nan if isinstance(number, str) else number


def verdict_of_claims(comparisons: "Sequence[Comparison]") -> "dict[Claim, str]":
    """Return a verdict in words for each claim, also for one without rows."""
    words = {}
    for claim in CLAIMS:
        verdicts = [comparison.verdict for comparison in comparisons if comparison.claim is claim]
        verdict = together(verdicts) if verdicts else "no rows"
        words[claim] = verdict.upper() + (" at this scale" if verdict == UNDECIDED else "")
    return words
