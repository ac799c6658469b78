"""Defines PiToMe (Tran et al., NeurIPS 2024), which merges tokens that have many similar ones and protects the others."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.decision import Decision, mask_of
from tokenprune.engine.indexing import sort_stably, take
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, ranked_slots
from tokenprune.methods.selectors.shared.bipartite import edges_of, half
from tokenprune.methods.selectors.shared.distances import directions, in_rows
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

MARGIN, HALVES = 0.75, ("bsm", "pitome")


@register("selector", "pitome")
class EnergyMatching(Selector):
    """Orders tokens by energy and merges pairs among those of most energy, by cosine of keys averaged over heads.

    The energy of a patch is E_i = mean over all patches j of ELU(cos_ij - m), the margin m falling from 0.75 to 0 over the depth (section
    3.2, Eq. 4; i itself counts, as in the released code). It is high in a large cluster. o_0, o_1, ... are the patches by falling energy.
    In the second half of the blocks o_0 ... o_(2r-1) are split into even and odd ranks, and each even one merges into its most similar odd
    one; all others are protected. In the first half all patches are split, and the r most similar pairs merge. The class token takes no
    part. As in the released models the attention does not see sizes; the means are weighted by them. The released code breaks where less
    than half of the tokens stays; here one decision merges half of them at most.

    Args:
        context: see `Context`.
        first: How the first half of the blocks matches: `bsm` over all patches, or `pitome`, the other way round (released for MAE).

    Raises:
        InvalidConfig: `first` is unknown.
    """

    site = Site.INSIDE
    merging = True
    module = "similarity-based"
    label = "PiToMe"
    paper = "PiToMe, NeurIPS 2024"
    published = {"treatment": {"name": "merge", "proportional": False}, "schedule": {"name": "shrink", "keep_rate": 0.9125}}
    cap = staticmethod(half)

    def __init__(self, context: Context, first: str = "bsm") -> None:
        super().__init__(context)
        early = context.block < -(-context.depth // 2)
        self.protects = (one_of(self.name, "first", first, HALVES) == "bsm") != early
        self.margin = MARGIN - MARGIN * context.block / context.depth

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Drop the sources of `budget.live - budget.keep` pairs and name their targets."""
        merged = budget.live - budget.keep
        metric = directions(seen.summed_keys())
        cosine = torch.bmm(metric, metric.transpose(1, 2))
        score = energy(cosine, self.margin, seen.mask)
        ranked = ranked_slots(score, seen.mask)[:, : budget.live]
        ranked = ranked[:, : 2 * merged] if self.protects else ranked
        a, b = ranked[:, ::2], ranked[:, 1::2]
        pairs = take(cosine, a).gather(2, b.unsqueeze(1).expand(-1, a.shape[1], -1))
        edges, partner = edges_of(pairs)
        edges = edges[:, :merged]
        source, into = a.gather(1, edges), b.gather(1, partner.gather(1, edges))
        slots = sort_stably(mask_of(source, score.shape[1]).to(torch.uint8))[1][:, : budget.keep]
        return Decision.between(slots, source, seen.mask, into=into, score=-score)

    def macs(self, slots: float) -> float:
        """Return M^2 d of the cosines."""
        return slots**2 * self.context.dim / self.context.heads


def energy(cosine: Tensor, margin: float, live: Tensor | None) -> Tensor:
    """Return the energy (B,M) of each slot among live ones (B,M), None for all, given cosines (B,M,M)."""
    if live is None:
        return torch.cat([F.elu(rows - margin).mean(-1) for rows in in_rows(cosine)], 1)
    near = [(F.elu(rows - margin) * live.unsqueeze(1)).sum(-1) for rows in in_rows(cosine)]
    return torch.cat(near, 1) / live.sum(1, keepdim=True)
