"""Defines a per-block schedule that is given by the total share removed, so that one setting fits every depth and image size."""

from dataclasses import dataclass
from fractions import Fraction

from tokenprune.engine.rates import exact
from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.errors import InvalidSchedule
from tokenprune.methods.schedules.per_block import PerBlock
from tokenprune.registry import register


@register("schedule", "total")
@dataclass(frozen=True)
class Total(Schedule):
    """Removes R = total * N / decisions tokens at every block, rounded to a multiple of `multiple` (Cropr's total ratio, section 3.5).

    R is the nearest multiple that leaves a token. 0.898 gives R = 8 for ViT-L with Last Layer Fusion (22 decisions over 196 tokens), 0.816
    gives R = 16 for ViT-B, and 0.9375 gives R = 8 for ViT-H/14.

    Args:
        total: Share of the N tokens that all decisions together remove.
        multiple: R is a multiple of this number.
        start: As in `per_block`.
        step: As in `per_block`.
        align: As in `per_block`.

    Raises:
        InvalidSchedule: `total` is no share, or `multiple` or `step` is no whole number >= 1.
    """

    total: float = 0.9
    multiple: int = 8
    start: int = 1
    step: int = 1
    align: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        exact(self.total, "total")
        for name in ("multiple", "step"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InvalidSchedule(f"{name} is {getattr(self, name)!r}; allowed: a whole number >= 1")

    def budgets(self, layout: Layout) -> tuple[Budget, ...]:
        """Return the budgets of the per-block schedule with this R.

        Raises:
            InvalidSchedule: No multiple leaves a token.
        """
        decisions = len(range(self.start, layout.depth - layout.revive, self.step))
        room = layout.positions - 1 - (1 if self.align and layout.prefix else 0)
        asked = exact(self.total, "total") * layout.positions / max(decisions, 1)
        most = room // max(decisions, 1) // self.multiple
        if most < 1:
            raise InvalidSchedule(
                f"{decisions} decisions over {layout.positions} tokens cannot drop {self.multiple} each; set schedule.multiple=1, or decide"
                " less often with schedule.step"
            )
        times = min(max(round(asked / self.multiple), 1), most)
        plan = PerBlock(remove=times * self.multiple, start=self.start, step=self.step, align=self.align)
        return plan.budgets(layout)

    def rates(self, layout: Layout) -> list[tuple[int, Fraction]]:
        """Return the deciding blocks, each with the share that is left."""
        return [(budget.block, Fraction(budget.rate)) for budget in self.budgets(layout)]
