"""Defines Cropr (Bergner et al., 2024, section 3): learned queries cross-attend to the tokens; auxiliary heads teach them which matter."""

import copy

from torch import Tensor, nn

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.errors import InvalidConfig
from tokenprune.methods.layers import EPS, AuxiliaryHead, first_queries, start
from tokenprune.methods.selectors.shared.noise import uniform
from tokenprune.registry import register

SELECTIONS = ("topk", "sampling")
PATCHES = "patches"
_LEAST = 2.0**-25  # smaller than every positive number that `uniform` returns


@register("selector", "cropr")
class CroprRouter(Selector):
    """Scores tokens by a = sum_n Q_n X^T (Eq. 3-4), the raw logits of detached tokens; prefix tokens are never scored and always stay.

    The choice of tokens has no gradient. If the model has a head, the queries learn in training from a head of their own, which sees all
    tokens, prefix included, through their attention. Its logits are the note `auxiliary`, (B,K) or, with several queries, (B,Nq,K);
    `losses.auxiliary` makes a loss of them. This head is not computed at test time, and `deploy` leaves it out.

    Args:
        context: see `Context`; without `classes` there is no auxiliary head.
        queries: Number of queries Nq: 1 for a whole image, or `patches` for one a position (N), which learn labels of patches.
        heads: With 1, plain products. With more, a cross-attention that has a norm on the tokens and projects queries, keys, values and
            result (Table 4a). Scores are summed over heads, too, so that inference pays for the norm and the projection of keys.
        select: `topk`, or `sampling` without replacement from softmax(a C^-0.5) by Gumbel noise (Table 4b), see `seed`.
        mlp: Whether the aggregator has an MLP (Table 4c).
        stop_grad: False lets auxiliary losses reach the backbone (Table 4d).
        salient: False drops the tokens of highest score (Table 1, Non-salient).
        seed: Seed of sampling at test time: noise depends on seed, block and image alone.
        aggregate: False makes a deployed router use all its queries, as the released code does. Figure 3b shows what their sum saves.
    """

    learns = True
    taught_by = "auxiliary"
    module = "cross-attention router"
    paper = "Token Cropr, CVPR 2025"
    published = {"treatment": "last_layer_fusion", "schedule": {"name": "per_block", "remove": 8}}

    def __init__(
        self,
        context: Context,
        queries: int | str = 1,
        heads: int = 1,
        select: str = "topk",
        mlp: bool = True,
        stop_grad: bool = True,
        salient: bool = True,
        seed: int = 0,
        aggregate: bool = True,
    ) -> None:
        super().__init__(context)
        count = _checked(context.positions if queries == PATCHES else queries, context.dim, heads, select)
        self.select, self.stop_grad, self.salient, self.seed, self.aggregate = select, stop_grad, salient, seed, aggregate
        self.query, dim, many = first_queries(count, context.dim), context.dim, heads > 1
        self.norm = nn.LayerNorm(dim, eps=EPS) if many else nn.Identity()
        self.ask, self.key = (nn.Linear(dim, dim, bias=False) if many else nn.Identity() for _ in range(2))
        self.apply(start)
        self.auxiliary = AuxiliaryHead(dim, context.classes, heads, mlp) if context.classes else None

    @property
    def caveat(self) -> str:
        """Return the remark that the router cannot learn without classes."""
        untaught = "the router's queries stay random: without a head the model has no auxiliary ones that teach them"
        return "" if self.context.classes else untaught

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of highest summed logit, or as many slots drawn by it."""
        state, auxiliary = seen.state, self.auxiliary if self.training else None
        tokens, P = state.holder() if auxiliary is None else (state.sequence(), state.prefix_count)
        tokens = self.norm(tokens.detach() if self.stop_grad else tokens)
        query, keys, notes = self.ask(self.query), self.key(tokens), {}
        if auxiliary is not None:
            there = None if state.known.complete else nn.functional.pad(seen.live, (P, 0), value=1)  # with the prefix
            notes = {"auxiliary": auxiliary(query, keys, tokens, there)}
        score = (keys @ query.T)[:, P:].sum(-1)  # (B,M)
        score = score if self.salient else -score
        if self.select == "topk":
            return keep_top(score, seen.mask, budget.keep, notes=notes)
        return keep_top(self._drawn(score, seen), seen.mask, budget.keep, notes=notes).replace(score=score)

    def macs(self, slots: float) -> float:
        """Return Nq M C, plus M C^2 for a projection of keys. The queries are projected once, in `deploy`."""
        return slots * (self.query.numel() + sum(p.numel() for p in self.key.parameters()))

    def deploy(self) -> "CroprRouter":
        """Return a router of one projected query, the sum of all (Eq. 6), or of all, without auxiliary head: the same scores for 1/Nq."""
        deployed = copy.deepcopy(self, {id(self.auxiliary): None})  # the copy has no auxiliary head
        projected = self.ask(self.query).detach()
        deployed.query = nn.Parameter(projected.sum(0, keepdim=True) if self.aggregate else projected)
        deployed.ask = nn.Identity()
        return deployed

    def _drawn(self, score: Tensor, seen: Observation) -> Tensor:
        """Return score C^-0.5 + Gumbel noise, infinite without a position. The largest of these are a sample without replacement."""
        noise = uniform(seen, None if self.training else self.seed)
        gumbel = -(-noise.clamp(_LEAST, 1 - 2.0**-24).log()).log()
        return (score * self.context.dim**-0.5 + gumbel).masked_fill(noise.isinf(), float("inf"))


def _checked(queries: int | str, dim: int, heads: int, select: str) -> int:
    """Return the number of queries; raises InvalidConfig for options that are not allowed."""
    count = queries if isinstance(queries, int) else 0
    bad = [
        (count < 1, f"cropr: queries is {queries!r}; allowed: >= 1, or {PATCHES}"),
        (heads < 1 or dim % max(heads, 1) != 0, f"cropr: heads is {heads}; allowed: 1, or a divisor of the {dim} channels"),
        (select not in SELECTIONS, f"cropr: select is {select!r}; allowed: {', '.join(SELECTIONS)}"),
    ]
    if problems := [text for wrong, text in bad if wrong]:
        raise InvalidConfig(problems)
    return count
