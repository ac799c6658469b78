"""A per-block schedule given by what is gone in the end, so that one setting fits every depth and image size."""

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
    """Cropr's per-block schedule, R from the total pruning ratio (section 3.5): R = `total` * N / decisions, a multiple of `multiple`.

    The nearest multiple that leaves a token; 0.898 is R = 8 for ViT-L with Last Layer Fusion (22 decisions over 196 tokens), 0.816 R = 16
    for ViT-B, 0.9375 R = 8 for ViT-H/14. start, step, align: as in `per_block`.
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
        """Resolve to the budgets of the per-block schedule of that R.

        Raises:
            InvalidSchedule: no multiple leaves a token.
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
        """Return the blocks with the share that is left."""
        return [(budget.block, budget.rate) for budget in self.budgets(layout)]
