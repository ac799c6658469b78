"""Defines a score without attention: how far a block moved a token (representation shift)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register

TRAIT = "entered"


class Entered(MethodHooks):
    """Stores the tokens that enter a block which a decision follows."""

    reads_attention = False

    def observes(self, precedes: bool) -> bool:
        """Tell whether a decision follows."""
        return precedes

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return the sequence (B,P+M,C)."""
        return {TRAIT: seen.state.sequence().detach()}


@register("selector", "representation_shift")
class RepresentationShift(Selector):
    """Keeps the tokens that the block just executed moved most: s_j = ||block(x)_j - x_j||, the L2 norm over channels.

    No attention is read, so that any attention kernel goes with it. Dropped tokens have passed the whole block. A fused token that came
    since has no shift and stays. The paper also looks at the shift of the MLP alone and at other norms, which are left out; its code was
    not to be had, so that this is the formula and not a port.
    """

    module = "parameter-free"
    label = "Representation Shift"
    paper = "Representation Shift, ICCV 2025"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.block < 1:
            raise InvalidSchedule(
                f"{self.name}: it compares tokens before and after a block, and no block is before block 0; set schedule.start=1"
            )

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that stores what enters a block."""
        return Entered()

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of greatest shift."""
        entered = seen.trait(TRAIT, missing=float("inf"))
        if seen.state.known.all_placed:
            return keep_top((seen.tokens - entered).norm(dim=-1), seen.mask, budget.keep)
        known = entered[..., 0].isfinite()
        shift = (seen.tokens - entered.where(known.unsqueeze(-1), 0)).norm(dim=-1)  # an infinite norm would have no gradient
        return keep_top(shift.masked_fill(~known, float("inf")), seen.mask, budget.keep)

    def macs(self, slots: float) -> float:
        """Return M C of the norms."""
        return slots * self.context.dim
