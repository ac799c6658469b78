"""Defines the schedules that keep a share of the tokens at stages or at every block."""

from dataclasses import dataclass, replace
from fractions import Fraction

from tokenprune.engine.rates import exact, matched, share, shrinking
from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register


@register("schedule", "stages")
@dataclass(frozen=True)
class Stages(Schedule):
    """Keeps keep_rate, keep_rate**2, keep_rate**3 of the tokens from blocks 3, 6, 9 on (SViT section 4, DynamicViT, EViT).

    Args:
        keep_rate: Share that stays at each stage.
        blocks: Blocks at which a stage begins.
        of: `original` counts against N. `current` takes keep_rate of the slots present at each stage, fused tokens included (EViT).
        rounding: How a share becomes a count: `floor`, `ceil`, `round` or `reference`, which cuts off the released codes' float.
        shrink_start: Share of the training run at which the rate starts to fall from 1. EViT trained from scratch has 10/300. By default
            the rate is keep_rate from the start, as in fine-tuning.
        shrink_end: Share of the training run at which the rate reaches keep_rate. EViT trained from scratch has 110/300.

    Raises:
        InvalidSchedule: `of` is unknown, or a shrink share is outside its range.
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
        """Return the stages with the rate at this point of the training."""
        rate = shrinking(self.keep_rate, progress, self.shrink_start, self.shrink_end)
        return self if rate == self.keep_rate else replace(self, keep_rate=rate)

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the stage blocks, each with keep_rate to the power of its stage."""
        rate = exact(self.keep_rate, "keep_rate")
        return [] if rate == 1 else [(block, rate**stage) for stage, block in enumerate(self.blocks, 1)]

    def count(self, rate: Fraction, stage: int, live: int, layout: Layout) -> int:
        """Return the count against N, or against the current slots if `of` is `current`."""
        if self.of == "original":
            approximate = layout.positions * float(self.keep_rate) ** (stage + 1)
            return self._round(rate * layout.positions, approximate)
        return self._round(exact(self.keep_rate, "keep_rate") * live, float(self.keep_rate) * live)


@register("schedule", "every_block")
@dataclass(frozen=True)
class EveryBlock(Schedule):
    """Decides at every block from `start` on and keeps keep_rate**s in the s-th group of `span` blocks (SViT): .7 .7 .7 .49 .49 .49 .343.

    Args:
        keep_rate: Share that stays in the first group.
        start: First block that decides.
        span: Number of blocks in a group.
        rounding: How a share becomes a count: `floor`, `ceil`, `round` or `reference`, which cuts off the released codes' float.
    """

    keep_rate: float = 0.7
    start: int = 3
    span: int = 3
    rounding: str = "floor"

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return blocks start ... depth-1 (depth-2 under Last Layer Fusion), each with its share."""
        rate, stop = exact(self.keep_rate, "keep_rate"), layout.depth - layout.revive
        return [] if rate == 1 else [(b, rate ** (1 + (b - self.start) // self.span)) for b in range(self.start, stop)]


@register("schedule", "constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """Keeps the same share at every block from `start` on (Evo-ViT).

    Args:
        keep_rate: With `rate: null`, the share of the three stages whose mean usage is matched.
        start: First block that decides, counted from 0.
        rate: Share that stays; 0.5 is published. null takes the constant rate whose mean usage over all blocks equals that of three stages
            at `keep_rate`, so that a table compares methods at equal usage. At 0.7 this is 0.44988, where the paper has 0.5.
        rounding: How a share becomes a count: `floor`, `ceil`, `round` or `reference`, which cuts off the released codes' float.
        stage_wise_from: Share of the training after which tokens are chosen every `span` blocks only, as at test time; 2/3 is published.
            null chooses at every block, always.
        span: Number of blocks from one choice to the next in that phase.

    Raises:
        InvalidSchedule: `stage_wise_from` is no share, or `span` is no whole number >= 1.
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
        """Return the schedule at this point of the training: a choice at every block before `stage_wise_from`."""
        early = self.stage_wise_from is not None and progress < self.stage_wise_from
        return replace(self, stage_wise_from=None) if early else self

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return blocks start ... depth-1, all with the same rate."""
        base, stop = exact(self.keep_rate, "keep_rate"), layout.depth - layout.revive
        rate = exact(matched(base, self.start, layout.depth, layout.positions) if self.rate is None else self.rate, "rate")
        step = 1 if self.stage_wise_from is None else self.span
        return [] if rate == 1 else [(block, rate) for block in range(self.start, stop, step)]
