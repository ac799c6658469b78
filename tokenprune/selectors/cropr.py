"""Cropr's scorer and router (Bergner et al., 2024, section 3.2): learned queries cross-attend to the tokens, without projections."""

import torch
from torch import nn

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, keep_top
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision


@register("selector", "cropr")
class CroprRouter(Selector):
    """Scores a = sum_n Q_n X^T (Eq. 1-2), raw logits of detached tokens; prefix tokens are never scored and so always stay.

    The queries learn from auxiliary heads only. Those are not part of this selector: without them the router keeps its
    initial, random, queries, and every result says so.

    Args:
        context: see `Context`.
        queries: number of queries Nq (1 for classification, one a patch for segmentation).
    """

    learns = True
    module = "cross-attention router"
    paper = "Token Cropr, CVPR 2025"
    published = {"treatment": "last_layer_fusion", "schedule": {"name": "per_block", "remove": 8}}

    def __init__(self, context: Context, queries: int = 1) -> None:
        super().__init__(context)
        if queries < 1:
            raise InvalidConfig(f"cropr: queries is {queries}; allowed: >= 1")
        std = context.dim**-0.5
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(queries, context.dim), std=std, a=-2 * std, b=2 * std))

    @property
    def caveat(self) -> str:
        """The router is untrained."""
        return "the router's queries are random: the auxiliary heads that teach them are not part of this version"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of highest summed logit."""
        logits = seen.tokens.detach() @ self.query.T  # (B,M,Nq)
        return keep_top(logits.sum(-1), seen.live, budget.keep)

    def macs(self, slots: float) -> float:
        """Return Nq M C."""
        return slots * self.query.numel()

    def deploy(self) -> "CroprRouter":
        """Return a router with one query, the sum of all (Eq. 6): the same scores at 1/Nq of the cost."""
        deployed = CroprRouter(self.context, queries=1).to(self.query)
        deployed.query.data.copy_(self.query.data.sum(0, keepdim=True))
        return deployed.train(self.training)
