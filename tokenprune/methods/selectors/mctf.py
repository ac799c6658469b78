"""Defines MCTF (Lee et al., CVPR 2024), which merges similar, little attended and small tokens one step ahead of the attention."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.indexing import take
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidConfig, InvalidSchedule
from tokenprune.methods.selectors.shared.bipartite import Split, cosines, edges_of, merging
from tokenprune.methods.selectors.shared.stored_attention import TRAIT, StoredAttention
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

MODES, POOLS, LEAST = ("ahead", "precise", "after"), ("attention", "mass"), 10


def limit(live: int, prefix: int) -> int:
    """Return how many of `live` slots one decision can merge: half of them, and never so many that fewer than 10 tokens are left."""
    return min(live // 2, max(live + prefix - LEAST, 0))


@register("selector", "mctf")
class MultiCriteriaFusion(Selector):
    """Merges pairs of even and odd ranks A and B in two directions, by three criteria (sections 3.1 and 3.2).

        W_ab = ((cos(x_a, x_b) + 1) / 2)^(1 / tau_sim) * (u_a u_b)^(1 / tau_info) * (w_a w_b)^(1 / tau_size)

    u_j is 1 / alpha_j, scaled to a maximum of 1, where alpha_j is the attention that j receives, a mean over heads and queries; w_j is
    1 / s_j, s_j its size. Half of the r merges send tokens of A to their best of B; the other half send tokens of B, with what came to
    them, to their best of what is left of A. A new token is the mean weighted by alpha_j s_j. Ranks follow the released order: what is left
    of A by rank, then B by falling W.

    Args:
        context: see `Context`.
        mode: `ahead` (section 3.3, "one-step-ahead attention"): merges after the block's attention map, whose rows and columns are grouped
            likewise, so that only values are made of the new tokens. `precise`: the same, and the block then runs anew on them. `after`:
            merges between two blocks, by the attention of the first; the schedule names the second, and no merge follows the last block.
        tau_sim: Temperature of the similarity; 0 leaves a criterion out. tau_info: Of the attention received. tau_size: Of the size.
        both_ways: Whether tokens merge in two directions; false sends all r from A to B, and B then keeps its ranks.
        pool: Weights of a mean: `attention` times size, or `mass`, the size alone.

    Raises:
        InvalidConfig: The mode or pool is unknown, or a temperature is negative.
        InvalidSchedule: A decision of mode `after` is at block 0.
    """

    site = Site.AHEAD
    merging = True
    module = "similarity-based"
    label = "MCTF"
    paper = "MCTF, CVPR 2024"
    published = {"treatment": "merge", "schedule": {"name": "per_block", "remove": 16, "start": 1, "align": False}}
    cap = staticmethod(limit)

    def __init__(
        self, context: Context, mode: str = "ahead", tau_sim: float = 1.0, tau_info: float = 20.0, tau_size: float = 40.0,
        both_ways: bool = True, pool: str = "attention",
    ) -> None:  # fmt: skip
        super().__init__(context)
        self.mode = one_of(self.name, "mode", mode, MODES)
        self.taus, self.both_ways = (tau_sim, tau_info, tau_size), both_ways
        self.by_attention = one_of(self.name, "pool", pool, POOLS) == "attention"
        self.site, self.peeks = (Site.AHEAD if mode == "ahead" else Site.BEFORE), mode == "precise"
        if min(self.taus) < 0:
            raise InvalidConfig(f"{self.name}: temperatures are {self.taus}; allowed: 0, which leaves a criterion out, and more")
        if mode == "after" and context.block < 1:
            raise InvalidSchedule(f"{self.name}: mode `after` reads the attention of the block before, and block 0 has none; set start=1")

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that stores the attention for mode `after`."""
        return StoredAttention("column_mean") if selectors[0].mode == "after" else MethodHooks()

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Drop `budget.live - budget.keep` tokens and name their targets, some of which have targets of their own."""
        alpha = (seen.trait(TRAIT) if self.mode == "after" else seen.column_mean().mean(1)).detach()
        alpha = alpha if seen.complete else alpha.masked_fill(~seen.live, 1.0)
        alpha = alpha.clamp(min=torch.finfo(alpha.dtype).tiny)  # who receives nothing is still a part of a mean
        mass = torch.ones_like(alpha) if seen.state.mass is None else seen.state.mass.to(alpha.dtype)
        split = Split.of(seen, budget.live)
        weight = self.attraction(seen, split, alpha, mass)
        merged = budget.live - budget.keep
        there = merged // 2 if self.both_ways else merged
        edges, partner = edges_of(weight)
        rows = edges[:, there:].sort(1).values
        left = split.a.gather(1, rows)
        sources, targets = [split.a.gather(1, edges[:, :there])], [split.b.gather(1, partner.gather(1, edges[:, :there]))]
        others = split.b
        if self.both_ways:
            edges, partner = edges_of(take(weight, rows).transpose(1, 2))
            sources.append(others.gather(1, edges[:, : merged - there]))
            targets.append(left.gather(1, partner.gather(1, edges[:, : merged - there])))
            others = others.gather(1, edges[:, merged - there :])
        source, order = torch.cat(sources, 1), torch.cat([left, others], 1)
        found = merging(seen.mask, source, torch.cat(targets, 1), order, alpha)
        return found.replace(weight=alpha * mass if self.by_attention else None, chain=2)

    def attraction(self, seen: Observation, split: Split, alpha: Tensor, mass: Tensor) -> Tensor:
        """Return W (B,Ma,Mb), given the attention that slots receive and their sizes, both (B,M)."""
        (sim, info, size), near = self.taus, ((cosines(seen.tokens, split) + 1) / 2).clamp(min=0)
        weight = near if sim == 1 else near ** (1 / sim if sim else 0)
        parts = ((alpha.amin(1, keepdim=True) / alpha, info), (1 / mass, size if seen.state.mass is not None else 0))
        own = torch.ones_like(alpha)  # powers of slots: of pairs they would be M/4 times as many
        for values, tau in parts:
            own = own * values ** (1 / tau) if tau else own
        return weight * own.gather(1, split.a).unsqueeze(2) * own.gather(1, split.b).unsqueeze(1)

    def macs(self, slots: float) -> float:
        """Return (M/2)^2 C of the cosines, and what finding the attention costs: nothing, q and k of T tokens, or a second pass over A."""
        C, T = self.context.dim, slots + self.context.prefix
        seeing = {"ahead": 0.0, "precise": 2 * T * C * C + T * T * C, "after": slots * slots * C}
        return (slots / 2) ** 2 * C + seeing[self.mode]
