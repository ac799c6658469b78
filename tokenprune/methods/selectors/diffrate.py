"""Defines DiffRate (Chen et al., ICCV 2023): each block prunes by the class token's attention and then merges what is least attended."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import take
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, ranked_slots
from tokenprune.methods.selectors.shared.distances import directions
from tokenprune.methods.selectors.shared.learned_counts import LearnedCounts
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS, COUNTS = ("fixed", "released"), ("given", "learned")
DEIT_S_2_9 = {  # DeiT-S at 2.9 GFLOPs: tokens after pruning and after merging in each block, class token included
    "prune": (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
    "merge": (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
}


@register("selector", "diffrate")
class PruneThenMerge(Selector):
    """Ranks patches by the class token's attention, drops the last ones for good, and merges the last of the others (section 3.1).

    The score is a_j = mean over heads of A[cls, j]. Of the patches by falling a, the first K stay; the next, up to the P that the schedule
    leaves after pruning, each go to the most similar one that stays, by the cosine c_j of the tokens themselves (section 3.1 draws keys,
    the released code takes tokens). The rest vanish. A merged token is the plain mean of its group, whatever their sizes. Its size, which
    the attention sees, is s_k + sum_j c_j s_j.

    Without the two lists of the schedule `counts` nothing is pruned, and all that is dropped is merged.

    `counts: learned` learns K and P instead (section 3.2), and the schedule names the blocks alone. Training computes every token: the
    probability that a rank stays is the gate of a token, which the attention of later blocks weighs by (DynamicViT's policy), and the
    forward pass takes 0 or 1. The loss `compute` pulls the counts to a budget. The result is plain lists: `shared.learned_counts.lists_of`.

    Args:
        context: see `Context`.
        variant: `fixed` or `released`. In the released code a negative cosine takes size away, and a size of 0 or below has no logarithm:
            `fixed` lets such a token add no size.
        counts: `given` by the schedule, or `learned`.
        granularity: Tokens between two counts to choose from while they are learned; 4 is released.

    Raises:
        InvalidConfig: The variant or `counts` is unknown, or the granularity is no whole number from 1 on.
    """

    site = Site.INSIDE
    merging = True
    vanishing = True
    reads_cls = True
    module = "attention-based"
    label = "DiffRate"
    paper = "DiffRate, ICCV 2023"
    published: ClassVar[Mapping[str, Any]] = {"treatment": "merge", "schedule": {"name": "counts", **DEIT_S_2_9}}

    def __init__(self, context: Context, variant: str = "fixed", counts: str = "given", granularity: int = 4) -> None:
        super().__init__(context)
        self.least = -1.0 if one_of(self.name, "variant", variant, VARIANTS) == "released" else 0.0
        learned = one_of(self.name, "counts", counts, COUNTS) == "learned"
        self.gated, self.visibility = learned, "soft" if learned else "hard"
        self.learned = LearnedCounts(context.positions or context.budget.live, granularity) if learned else None

    @property
    def caveat(self) -> str:
        """Return the learned counts of the block, "" where the schedule gives them."""
        counts = () if self.learned is None else (count + self.context.prefix for count in self.learned.whole())
        found = " tokens and to merge to ".join(map(str, counts))
        return found and f"block {self.context.block:02d}: learned to prune to {found}"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep `budget.keep` tokens, merge those up to `budget.between`, and let the others vanish."""
        score = seen.cls_row().mean(1)
        ranked = ranked_slots(score, seen.mask)
        left, keep = self.numbers(seen, budget)
        kept, rest = ranked[:, :keep], ranked[:, keep:left]
        unit = directions(seen.tokens)
        cosine, nearest = (take(unit, rest) @ take(unit, kept).transpose(1, 2)).max(-1)
        decision = Decision.between(
            kept,
            ranked[:, keep:],
            into=kept.gather(1, nearest),
            score=score,
            weight=torch.ones_like(score),
            carry=cosine.clamp(min=self.least).to(score.dtype),
        )
        return decision if self.learned is None or not self.training else self.taught(seen, decision, ranked, self.learned)

    def numbers(self, seen: Observation, budget: Budget) -> tuple[int, int]:
        """Return how many tokens are left after pruning, and how many after merging."""
        if self.learned is not None:
            return self.learned.numbers(int(seen.live[0].sum()))
        return budget.live if budget.between is None else budget.between, budget.keep

    @staticmethod
    def taught(seen: Observation, decision: Decision, ranked: Tensor, learned: LearnedCounts) -> Decision:
        """Return a decision of training: with gates, a note of the counts, and sizes of 1 and more, as released."""
        gate = learned.gates(ranked.shape[1], int(seen.live[0].sum())).to(seen.tokens.dtype)
        mass = torch.ones_like(seen.tokens[..., 0]) if seen.state.mass is None else seen.state.mass
        carry, into, gone = decision.carry, decision.into, decision.gone
        if carry is not None and into is not None and gone is not None:
            carry = torch.maximum(carry, 1 / mass.gather(1, gone[:, : into.shape[1]]).to(carry.dtype))
        spread = torch.zeros_like(seen.tokens[..., 0]).scatter(1, ranked, gate.expand_as(ranked))
        return decision.replace(gate=spread, carry=carry, notes={"counts": learned()})

    def macs(self, slots: float) -> float:
        """Return K (P - K) C of the cosines, for K tokens that stay of P after pruning, in proportion to the slots."""
        made_for = self.context.budget
        if self.learned is not None:
            left, keep = self.learned.numbers(int(slots))
            return keep * (left - keep) * self.context.dim
        left = made_for.live if made_for.between is None else made_for.between
        return made_for.keep * (left - made_for.keep) * self.context.dim * (slots / made_for.live) ** 2
