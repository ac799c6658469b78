"""Defines top-k attention: inside the block that attends (TokenReduction's Top-K), or between it and the next (Cropr's Attn Top-K)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.engine.state import Decision
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

SCORES = ("cls", "mean_query", "column_mean")
TRAIT = "attention_before"


def known(name: str, score: str) -> str:
    """Return `score` if it is one of SCORES; otherwise raise InvalidConfig."""
    return one_of(name, "score", score, SCORES)


def attention(seen: Observation, source: str) -> Tensor:
    """Return how much attention each slot receives in the observed block by `source`, one of SCORES, averaged over heads, (B,M)."""
    return {"cls": seen.cls_row, "mean_query": seen.mean_query, "column_mean": seen.column_mean}[source]().mean(1)


@register("selector", "topk")
class AttentionTopK(Selector):
    """Keeps the tokens that receive most attention in the block that decides, between its attention and its MLP.

    Args:
        context: see `Context`.
        score: `cls` takes the class token's row. `mean_query` takes the mean query's row; it needs no class token and costs O(N).
            `column_mean` takes the mean over all queries, which costs about as much as the attention itself.
    """

    site = Site.INSIDE
    reads_cls = True
    module = "attention-based"
    paper = "Cropr's baseline"

    def __init__(self, context: Context, score: str = "cls") -> None:
        super().__init__(context)
        self.source = known(self.name, score)

    @classmethod
    def wants_cls(cls, options: Mapping[str, Any]) -> bool:
        """Tell whether `score` is the class token's row, which is the default."""
        return options.get("score", "cls") == "cls"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of most attention, averaged over heads."""
        return keep_top(attention(seen, self.source), seen.live, budget.keep)

    def macs(self, slots: float) -> float:
        """Return the MACs of the second pass over the logits, which the column mean needs. A single row is part of the block."""
        return slots * slots * self.context.dim if self.source == "column_mean" else 0.0


@dataclass(frozen=True)
class StoredAttention(MethodHooks):
    """Stores how much attention slots receive in blocks that a decision follows.

    Args:
        source: One of SCORES.
    """

    source: str

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return the attention that live slots receive, (B,M), in a block that a decision follows."""
        return {TRAIT: attention(seen, self.source).detach()} if seen.precedes else {}


class AttentionBefore(Selector):
    """Acts between two blocks and reads how much attention each token received in the first of them.

    Args:
        context: see `Context`; a decision at block 0 is an InvalidSchedule, because no block is before it.
        source: One of SCORES.
    """

    reads_previous_block = True

    def __init__(self, context: Context, source: str) -> None:
        super().__init__(context)
        self.source = source
        if context.block < 1:
            raise InvalidSchedule(f"{self.name}: it reads the attention of the block before, and block 0 has none; set schedule.start=1")

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that stores the attention for `received`."""
        return StoredAttention(selectors[0].source)

    def received(self, seen: Observation, missing: float) -> Tensor:
        """Return the stored attention, (B,M). A fused token that came since reads `missing`."""
        return seen.trait(TRAIT, missing)

    def macs(self, slots: float) -> float:
        """Return the MACs of the second pass over the logits, which the column mean needs. A single row is part of the block."""
        keys = slots if self.context.max_keys is None else min(slots, self.context.max_keys)
        return slots * keys * self.context.dim if self.source == "column_mean" else 0.0


@register("selector", "attn_topk")
class AttentionTopKBefore(AttentionBefore):
    """Keeps the tokens that received most attention in the block just executed (Cropr's Attn Top-K, section 4).

    Dropped tokens have passed the whole block, its MLP included. Last Layer Fusion brings this value back.

    Args:
        context: see `Context`.
        score: `cls` takes the class token's row, `mean_query` the mean query's row, `column_mean` the mean over all queries.
    """

    reads_cls = True
    module = "attention-based"
    paper = "Cropr's baseline"
    published = {"treatment": "last_layer_fusion", "schedule": {"name": "per_block", "remove": 8}}
    wants_cls = AttentionTopK.wants_cls

    def __init__(self, context: Context, score: str = "cls") -> None:
        super().__init__(context, known(self.name, score))

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots that received most attention. A fused token has no stored attention and stays."""
        return keep_top(self.received(seen, missing=float("inf")), seen.live, budget.keep)
