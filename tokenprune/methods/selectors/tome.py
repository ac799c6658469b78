"""Defines ToMe's bipartite soft matching (Bolya et al., ICLR 2023, section 3), which pairs the tokens that merge."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector
from tokenprune.methods.selectors.shared.bipartite import Split, cosines, edges_of, half
from tokenprune.registry import register

TRAIT = "merge_order"


@register("selector", "tome")
class BipartiteMatching(Selector):
    """Splits tokens by rank into alternating sets A and B, and merges the most similar A-B pairs by cosine of keys averaged over heads.

    Ranks follow the released order, unmerged A then B, so the split is the same in every execution.
    """

    site = Site.INSIDE
    merging = True
    module = "similarity-based"
    paper = "ToMe, ICLR 2023"
    published = {"treatment": "merge", "schedule": {"name": "per_block", "remove": 13, "start": 0, "align": False}}
    cap = staticmethod(half)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Drop the sources of the `budget.live - budget.keep` most similar pairs and name their targets."""
        state = seen.state
        (B, M), P, merged = state.index.shape, state.prefix_count, budget.live - budget.keep
        place = torch.arange(M, device=state.index.device).expand(B, M)
        ranked = place if seen.complete else self._ranked(seen, place)[:, : budget.live]
        first = P % 2  # the class token itself is the first of A
        split = Split(ranked[:, first::2], ranked[:, 1 - first :: 2], first if seen.complete else None)
        edges, partner = edges_of(cosines(seen.keys(), split))
        joins, stays = edges[:, :merged], edges[:, merged:].sort(1).values if P else edges[:, merged:]
        source, into = split.a.gather(1, joins), split.b.gather(1, partner.gather(1, joins))
        after = torch.cat([split.a.gather(1, stays), split.b], 1)  # the released order of what is left
        # Slots lie in that order from the first decision on, unless dead ones stay among them: only then it has to be remembered.
        remember = state.known.in_grid_order or not seen.complete
        traits = {TRAIT: place.scatter(1, after, place[:, : after.shape[1]])} if remember else {}
        return Decision.between(after, source, seen.mask, into=into, traits=traits)

    @staticmethod
    def _ranked(seen: Observation, place: Tensor) -> Tensor:
        rank = seen.trait(TRAIT) if TRAIT in seen.state.traits else place
        return sort_stably(rank.masked_fill(~seen.live, 2**31))[1]

    def macs(self, slots: float) -> float:
        """Return (M/2)^2 d, for the M/2 x M/2 similarities of d channels."""
        return (slots / 2) ** 2 * self.context.dim / self.context.heads
