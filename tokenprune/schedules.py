"""Where tokens are dropped and how many stay: pure arithmetic on exact rationals, no tensors.

Counts are of patch slots; prefix tokens (CLS, registers) are never counted and never dropped. `keep_rate` is the kept fraction
(papers also call it pruning rate, keep ratio or token ratio). Blocks are 0-based; the papers' block 4 is block 3 here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tokenprune.errors import InvalidSchedule
from tokenprune.rates import ROUNDINGS, exact, matched, ramped, rounded, share, shrinking
from tokenprune.registry import register


@dataclass(frozen=True)
class Budget:
    """One decision: before (or inside) `block`, `keep` of `live` slots stay; `rate` is the target share of the N grid positions."""

    block: int
    keep: int
    live: int
    rate: Fraction


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
            result.append(Budget(block, keep, live, rate))
            live = keep + layout.extra if keep < live else live
        return tuple(result)

    def describe(self, layout: Layout) -> str:
        """Return a line a decision with kept counts, so that nobody guesses what 0.7 means."""
        lines = [f"{layout.positions} positions, {layout.depth} blocks, {layout.prefix} prefix token(s) on top"]
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


@register("schedule", "stages")
@dataclass(frozen=True)
class Stages(Schedule):
    """keep_rate, keep_rate**2, keep_rate**3 of the tokens from blocks 3, 6, 9 (SViT section 4, DynamicViT, EViT).

    `of: original` counts against N; `of: current` takes keep_rate of what is there at each stage, fused tokens counted (EViT).
    While training, the rate falls from 1 to keep_rate between the shares `shrink_start` and `shrink_end` of the run (EViT trained from
    scratch: 10/300 and 110/300); by default it is keep_rate at once, as in fine-tuning.
    """

    keep_rate: float = 0.7
    blocks: tuple[int, ...] = (3, 6, 9)
    of: str = "original"
    rounding: str = "floor"
    shrink_start: float = 0.0
    shrink_end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if self.of not in ("original", "current"):
            raise InvalidSchedule(f"of is {self.of!r}; allowed: original, current")
        if share(self.shrink_start, "shrink_start") > share(self.shrink_end, "shrink_end"):
            raise InvalidSchedule(f"shrink_start is {self.shrink_start}, after shrink_end, {self.shrink_end}; allowed: start <= end")

    def at(self, progress: float) -> Schedule:
        """Return the stages of the rate in force."""
        rate = shrinking(self.keep_rate, progress, self.shrink_start, self.shrink_end)
        return self if rate == self.keep_rate else replace(self, keep_rate=rate)

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the stage blocks with keep_rate to the power of the stage."""
        rate = exact(self.keep_rate, "keep_rate")
        return [] if rate == 1 else [(block, rate**stage) for stage, block in enumerate(self.blocks, 1)]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return the count against N, or against the current slots for `of: current`."""
        if self.of == "original":
            approximate = layout.positions * float(self.keep_rate) ** (stage + 1)
            return self._round(rate * layout.positions, approximate)
        return self._round(exact(self.keep_rate, "keep_rate") * live, float(self.keep_rate) * live)


@register("schedule", "every_block")
@dataclass(frozen=True)
class EveryBlock(Schedule):
    """SViT: a decision at every block from `start`, keep_rate**s for the s-th group of `span` blocks (.7 .7 .7 .49 .49 .49 .343 ...)."""

    keep_rate: float = 0.7
    start: int = 3
    span: int = 3
    rounding: str = "floor"

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return blocks start ... depth-1 (depth-2 under Last Layer Fusion)."""
        rate, stop = exact(self.keep_rate, "keep_rate"), layout.depth - layout.revive
        return [] if rate == 1 else [(b, rate ** (1 + (b - self.start) // self.span)) for b in range(self.start, stop)]


@register("schedule", "constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """Evo-ViT: the same share at every block from `start` on (0-based 4; published rate 0.5).

    `rate: null` takes the constant rate whose mean usage over all blocks equals that of three stages at `keep_rate`, so that a
    table compares methods at equal use; at 0.7 that is 0.44988 where the paper has 0.5. Once a share `stage_wise_from` of training is
    done (published: 2/3), and at test, tokens are chosen every `span` blocks only; null: at every block, always.
    """

    keep_rate: float = 0.7
    start: int = 4
    rate: float | None = None
    rounding: str = "floor"
    stage_wise_from: float | None = None
    span: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage_wise_from is not None:
            share(self.stage_wise_from, "stage_wise_from")
        if not isinstance(self.span, int) or self.span < 1:
            raise InvalidSchedule(f"span is {self.span!r}; allowed: a whole number of blocks >= 1")

    def at(self, progress: float) -> Schedule:
        """Return the schedule in force: layer-wise before `stage_wise_from`."""
        early = self.stage_wise_from is not None and progress < self.stage_wise_from
        return replace(self, stage_wise_from=None) if early else self

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return blocks start ... depth-1 at one rate."""
        base, stop = exact(self.keep_rate, "keep_rate"), layout.depth - layout.revive
        rate = exact(matched(base, self.start, layout.depth, layout.positions) if self.rate is None else self.rate, "rate")
        step = 1 if self.stage_wise_from is None else self.span
        return [] if rate == 1 else [(block, rate) for block in range(self.start, stop, step)]


@register("schedule", "per_block")
@dataclass(frozen=True)
class PerBlock(Schedule):
    """Cropr and ToMe: `remove` R tokens at every block from `start` to `stop` (exclusive; default all that the treatment allows).

    With a CLS the first decision drops one more (`align`), so that all sequence lengths are multiples of 8 afterwards (Cropr 3.5).
    `step`: blocks from one decision to the next. `ramp` > 0: of a training of so many epochs the first half has a rising R (`ramped`).
    """

    remove: int = 8
    start: int = 1
    stop: int | None = None
    align: bool = True
    step: int = 1
    ramp: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("remove", 0), ("step", 1), ("ramp", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise InvalidSchedule(f"{name} is {getattr(self, name)!r}; allowed: a whole number >= {least}")

    def at(self, progress: float) -> Schedule:
        """Return the schedule of the epoch in force."""
        now = ramped(self.remove, progress, self.ramp)
        return self if now == self.remove else replace(self, remove=now, ramp=0)

    def budgets(self, layout: Layout) -> tuple[Budget, ...]:
        """Resolve to counts by subtraction."""
        stop = layout.depth - layout.revive if self.stop is None else self.stop
        return super().budgets(layout) if self.remove and self.start < stop else ()

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the blocks; the share follows from the counts."""
        stop = layout.depth - layout.revive if self.stop is None else self.stop
        first = self.remove + (1 if self.align and layout.prefix else 0)
        left = [max(layout.positions - first - i * self.remove, 1) for i in range(stop - self.start)]
        return [(block, Fraction(n, layout.positions)) for block, n in zip(range(self.start, stop, self.step), left, strict=False)]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return live - R, and one less at the first decision when there is a CLS to align."""
        return live - self.remove - (1 if stage == 0 and self.align and layout.prefix else 0)


@register("schedule", "explicit")
@dataclass(frozen=True)
class Explicit(Schedule):
    """Any blocks and any counts: `keep: {3: 100, 6: 0.5}`; whole numbers are counts, fractions are shares of N."""

    keep: Mapping[int, float] = field(default_factory=dict)
    rounding: str = "floor"

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the listed blocks."""
        result = []
        for block, keep in self.keep.items():
            counted = isinstance(keep, int) and not isinstance(keep, bool)
            share = Fraction(keep, layout.positions) if counted else exact(keep, f"keep[{block}]")
            if not 0 < share <= 1:
                raise InvalidSchedule(f"keep[{block}] is {keep}; allowed: 1 to {layout.positions} tokens, or a share in (0, 1]")
            result.append((int(block), share))
        return result


@register("schedule", "none")
@dataclass(frozen=True)
class NoSchedule(Schedule):
    """Nothing is dropped: the dense model."""
