"""Defines top-k attention: inside the block that attends (TokenReduction's Top-K), or between it and the next (Cropr's Attn Top-K)."""

from collections.abc import Mapping
from typing import Any

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.methods.selectors.shared.stored_attention import AttentionBefore, attention, known
from tokenprune.registry import register


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
        return keep_top(attention(seen, self.source), seen.mask, budget.keep)

    def macs(self, slots: float) -> float:
        """Return the MACs of the second pass over the logits, which the column mean needs. A single row is part of the block."""
        return slots * slots * self.context.dim if self.source == "column_mean" else 0.0


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
        return keep_top(self.received(seen, missing=float("inf")), seen.mask, budget.keep)
