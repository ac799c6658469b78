"""Defines Evo-ViT's selector (Xu et al., AAAI 2022, section 3.2): a running average of class attention; pruned tokens keep theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

TRAIT = "running_attention"


@register("selector", "evo_vit")
class EvoViTRunningAttention(Selector):
    """Updates the global class attention g <- (1 - t) g + t a of processed tokens, and sorts all positions again at every decision.

    Before the first decision t is 1, as in the released models: g is the attention of the block just before. The representative token of
    the paper is missing in the released DeiT code and here.

    The schedule says which blocks decide. The published class chooses at blocks 4 and 8 only at test time, and at every block for the first
    two thirds of its training (`stage_wise_from` of the schedule `constant`). SViT's detection tables choose at every block.

    Args:
        context: see `Context`.
        tradeoff: t of the blocks from the first decision on, in (0, 1].

    Raises:
        InvalidConfig: tradeoff is outside (0, 1].
    """

    reads_cls = True
    module = "attention-based"
    paper = "Evo-ViT, AAAI 2022"
    published = {"treatment": "reactivate", "schedule": {"name": "constant", "rate": 0.5, "stage_wise_from": 2 / 3}}

    def __init__(self, context: Context, tradeoff: float = 0.5) -> None:
        super().__init__(context)
        if not 0 < tradeoff <= 1:
            raise InvalidConfig(f"evo_vit: tradeoff is {tradeoff}; allowed: 0 < tradeoff <= 1")
        self.tradeoff = tradeoff

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that updates the running average, also in blocks without a decision."""
        return RunningAttention(selectors[0].context.block, selectors[0].tradeoff)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the slots of greatest running attention. A fused token has none and stays."""
        return keep_top(seen.trait(TRAIT, missing=float("inf")), seen.mask, budget.keep)


@dataclass(frozen=True)
class RunningAttention(MethodHooks):
    """Stores g as a trait in every block from the one before the first decision on.

    Args:
        first: Block of the first decision.
        tradeoff: t, see `EvoViTRunningAttention`.
    """

    first: int
    tradeoff: float

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return the updated average of live slots, (B,M). Attention is summed over heads, as released."""
        if seen.block < self.first - 1:
            return {}  # with t = 1 the next block would forget it
        now = seen.cls_row().sum(1).detach()
        if TRAIT not in seen.state.traits or seen.block < self.first:
            return {TRAIT: now}
        return {TRAIT: (1 - self.tradeoff) * seen.trait(TRAIT) + self.tradeoff * now}
