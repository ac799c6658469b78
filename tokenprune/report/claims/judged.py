"""Judges claims: each comparison of measured lines beside the paper's difference, and each claim by its comparisons."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from tokenprune.report.claims.declared import AS_GOOD, BETTER, Claim, Measure, Pair, Side
from tokenprune.report.claims.measured import Lines, Values, lines_of, printed
from tokenprune.report.insights.power import Power, power_of
from tokenprune.report.insights.verdicts import (
    FAILS,
    HOLDS,
    LEAST,
    MIXED,
    UNDECIDABLE,
    UNDECIDED,
    decided,
    spread_over_seeds,
    together,
)
from tokenprune.report.tables.seeds import Difference, paired

AGREES, DISAGREES, BOTH_WAYS = "one seed: sign agrees", "one seed: sign disagrees", "one seed: signs differ"
UNMEASURED, IN_PART = "not measured", "holds in part"
VERDICTS = (HOLDS, IN_PART, MIXED, FAILS, UNDECIDED, UNDECIDABLE, AGREES, BOTH_WAYS, DISAGREES, UNMEASURED)


@dataclass(frozen=True)
class Comparison:
    """Holds one pair of a claim as it was measured in one place.

    Attributes:
        rule: `declared.BETTER` or `declared.AS_GOOD`.
        pair: The pair.
        column: The measured column.
        lines: The measured lines; None if no file has both sides.
        gap: First minus second over seeds; None if no file has both sides.
        spread: Standard deviation over seeds of one side, pooled over the two; NaN with one seed.
        level: The better mean of the two; NaN if nothing was measured.
        paper: The paper's difference; NaN if it prints none.
        sides: What both sides have by seed; empty if no file has both.
    """

    rule: str
    pair: Pair
    column: str
    lines: Lines | None
    gap: Difference | None
    spread: float
    level: float
    paper: float
    sides: tuple[Values, ...] = ()

    @property
    def power(self) -> Power | None:
        """Return what the seeds could show of the paper's difference; None if that is not asked for."""
        return None if self.gap is None or self.gap.n < 2 or self.rule != BETTER else power_of(self.paper, self.gap)

    @property
    def verdict(self) -> str:
        """Return the verdict; with one seed it tells no more than the sign.

        The sign of an `as good` agrees if no more is lost than in the paper.
        """
        if self.gap is None:
            return UNMEASURED
        if self.gap.n == 1:
            lost = min(0.0, self.paper) if self.rule == AS_GOOD and not math.isnan(self.paper) else 0.0
            return AGREES if self.gap.mean > lost or (self.rule == AS_GOOD and self.gap.mean == lost) else DISAGREES
        if self.column.startswith("ap_") and self.level < LEAST and self.pair.first.less is None:
            return UNDECIDED  # neither side has learnt to detect
        return decided(self.gap, self.rule, self.spread, able=self.power is None or self.power.able)


@dataclass(frozen=True)
class Judged:
    """Holds a claim with its comparisons, in the order of its pairs."""

    claim: Claim
    comparisons: tuple[Comparison, ...]

    @cached_property
    def verdict(self) -> str:
        """Return one of `VERDICTS`. Comparisons of several seeds decide; those of one seed count only where there are no others."""
        verdicts = [c.verdict for c in self.comparisons if c.gap is not None]
        several = [c.verdict for c in self.comparisons if c.gap is not None and c.gap.n > 1]
        if several:
            verdict = together(several)
            return verdict if verdict in VERDICTS else IN_PART if verdict.startswith(HOLDS) else FAILS
        if not verdicts:
            return UNMEASURED
        return verdicts[0] if len(set(verdicts)) == 1 else BOTH_WAYS

    @property
    def counted(self) -> str:
        """Return how many comparisons came to which verdict, in words."""
        counts = Counter(c.verdict for c in self.comparisons)
        return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)


def judge_claims(claims: Sequence[Claim], experiments: Path) -> list[Judged]:
    """Return claims with all that was measured for them.

    Args:
        claims: The claims.
        experiments: The folder experiments/ of a checkout.

    Raises:
        DatasetError: A side of a claim is several rows of one seed, or an expected.csv is malformed.
    """
    return [Judged(claim, tuple(c for pair in claim.pairs for c in _measured(claim, pair, experiments))) for claim in claims]


def _measured(claim: Claim, pair: Pair, experiments: Path) -> list[Comparison]:
    """Return the comparisons of one pair, each of other numbers; a single one without numbers if no file has both sides."""
    chosen = {key for side in _sides(pair) for key in side.where}
    found = [
        comparison
        for measure in claim.measures
        for lines in lines_of(measure, experiments, chosen)
        for column in measure.columns
        if (comparison := _compared(claim.rule, pair, measure, column, lines, experiments)) is not None
    ]
    measure = claim.measures[0]
    nothing = (None, None, math.nan, math.nan, _paper(pair, measure, measure.columns[0], experiments))
    return _distinct(found) or [Comparison(claim.rule, pair, measure.columns[0], *nothing)]


def _distinct(found: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons without those whose numbers, seed by seed, another one of the same column has as well.

    Experiments share rows, and the same training under two names gives the same numbers; neither is more evidence.
    """
    kept: list[Comparison] = []
    for one in sorted(found, key=lambda c: -sum(map(len, c.sides))):  # stable: of equal ones the first stays
        if not any(one.column == other.column and _within(one.sides, other.sides) for other in kept):
            kept.append(one)
    return [one for one in found if any(one is other for other in kept)]


def _within(few: Sequence[Values], many: Sequence[Values]) -> bool:
    return all(one.items() <= other.items() for one, other in zip(few, many, strict=True))


def _sides(pair: Pair) -> list[Side]:
    return [side for one in (pair.first, pair.second) for side in (one, one.less) if side is not None]


def _compared(rule: str, pair: Pair, measure: Measure, column: str, lines: Lines, experiments: Path) -> Comparison | None:
    first, second = _values(pair.first, pair.second, column, lines), _values(pair.second, pair.first, column, lines)
    gap = paired(first, second)
    if gap is None:
        return None
    level = max(fmean(first.values()), fmean(second.values()))
    paper = _paper(pair, measure, column, experiments, lines.size)
    return Comparison(rule, pair, column, lines, gap, spread_over_seeds((first, second)), level, paper, (first, second))


def _values(side: Side, other: Side, column: str, lines: Lines) -> Values:
    """Return the value of a side by seed; a number stands for every seed of the other side."""
    if side.value is None:
        return lines.values(side, column)
    return dict.fromkeys(lines.values(other, column), side.value)


def _paper(pair: Pair, measure: Measure, column: str, experiments: Path, size: str = "") -> float:
    if pair.effect is not None:
        return pair.effect
    return printed(pair.first, measure, column, experiments, size) - printed(pair.second, measure, column, experiments, size)
