"""Where tokens are dropped and how many stay: pure arithmetic on exact rationals, no tensors.

Counts are of patch slots; prefix tokens (CLS, registers) are never counted and never dropped. `keep_rate` is the kept fraction
(papers also call it pruning rate, keep ratio or token ratio). Blocks are 0-based; the papers' block 4 is block 3 here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tokenprune.engine.rates import ROUNDINGS, exact, rounded
from tokenprune.errors import InvalidSchedule

TARGET = "target_gmac"  # of a schedule: what is asked for; the answers, which do not count in the key, are
ANSWERS = ("keep_rate", "rate", "remove")


@dataclass(frozen=True)
class Budget:
    """One decision: before (or inside) `block`, `keep` of `live` slots stay; `rate` is the target share of the N grid positions.

    `rate` is an exact fraction; in a program that torch.compile made it is the nearest float. `between`: how many are left between two
    actions of a decision that first prunes and then merges; None where the schedule does not say. `stage`: number of the decision, from 0.
    """

    block: int
    keep: int
    live: int
    rate: Fraction | float
    between: int | None = None
    stage: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Layout:
    """What a schedule is resolved against: `depth` blocks, `positions` = N, `prefix` tokens, and the facts of selector and treatment.

    `cap(live, prefix)` bounds how many slots one decision can drop (ToMe: half); `extra` slots appear with each decision (EViT's
    fused token: 1); `revive`: all tokens return before the last block; `all_candidates`: every position may be chosen again.
    """

    depth: int
    positions: int
    prefix: int = 0
    extra: int = 0
    revive: bool = False
    all_candidates: bool = False
    cap: Callable[[int, int], int] | None = None


class Schedule:
    """Base of all schedules: a subclass lists (block, rate, count rule) and this class resolves and checks them."""

    rounding = "floor"

    def at(self, progress: float) -> "Schedule":
        """Return the schedule in force when a share `progress` in [0,1] of training is done; 1 is the one of the test."""
        return self

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return (block, target share of N) for every decision, in order; none unless a subclass says so."""
        return []

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return how many slots stay; the default counts against the N original positions."""
        return self._round(rate * layout.positions, float(layout.positions) * float(rate))

    def between(self, stage: int, keep: int, live: int, layout: Layout) -> int | None:
        """Return how many of `live` slots are left after pruning, before merging leaves `keep`; None where there is one action."""
        return None

    def budgets(self, layout: Layout) -> tuple[Budget, ...]:
        """Resolve to one Budget a decision.

        Raises:
            InvalidSchedule: a block outside the depth, blocks out of order, or nothing left to keep.
        """
        live, result = layout.positions, []
        for stage, (block, rate) in enumerate(self.rates(layout)):
            self._check_block(block, result, layout)
            live = layout.positions if layout.all_candidates else live
            keep = min(self.count(rate, stage, live, layout), live)
            if layout.cap is not None:
                keep = max(keep, live - layout.cap(live, layout.prefix))
            if keep < 1:
                raise InvalidSchedule(f"block {block}: {keep} of {live} tokens would stay, at least 1 must: raise keep_rate or drop less")
            result.append(Budget(block, keep, live, rate, self.between(stage, keep, live, layout), stage))
            live = keep + layout.extra if keep < live else live
        return tuple(result)

    def describe(self, layout: Layout) -> str:
        """Return a line a decision with kept counts, so that nobody guesses what 0.7 means."""
        lines = [f"{layout.positions} positions, {layout.depth} blocks, {layout.prefix} prefix token(s) not counted here"]
        for b in self.budgets(layout):
            lines.append(f"block {b.block:2d}: keep {b.keep:5d} of {b.live:5d} ({float(b.keep / layout.positions):6.1%} of all)")
        return "\n".join(lines)

    def _round(self, value: Fraction, approximate: float) -> int:
        return rounded(value, self.rounding, approximate)

    def _check_block(self, block: int, before: Sequence[Budget], layout: Layout) -> None:
        if not isinstance(block, int) or not 0 <= block < layout.depth:
            raise InvalidSchedule(f"block {block!r} is outside the model: it has {layout.depth} blocks, 0 to {layout.depth - 1}")
        if before and block <= before[-1].block:
            raise InvalidSchedule(f"block {block} follows block {before[-1].block}: list blocks once each, in ascending order")
        if layout.revive and block > layout.depth - 2:
            raise InvalidSchedule(
                f"block {block}: Last Layer Fusion brings tokens back before block {layout.depth - 1}, so the last decision"
                f" must be at block <= {layout.depth - 2}"
            )

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise InvalidSchedule(f"rounding is {self.rounding!r}; allowed: {', '.join(ROUNDINGS)}")
        for name in ("keep_rate", "rate"):
            if getattr(self, name, None) is not None:
                exact(getattr(self, name), name)


def answered(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule's own options, without the target that they were found for."""
    return {k: v for k, v in schedule.items() if k != TARGET}
