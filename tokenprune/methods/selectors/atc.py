"""Defines ATC (Haurum et al., ECCV 2024): tokens are clustered bottom-up, and each cluster becomes its mean."""

import torch

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.methods.selectors.shared.agglomeration import LINKAGES, clustered
from tokenprune.methods.selectors.shared.distances import directions
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")


@register("selector", "atc")
class AgglomerativeClustering(Selector):
    """Merges the two closest clusters of tokens until `budget.keep` are left (section 3.2); each cluster becomes its mean by mass.

    Tokens are at the distance d_ij = 1 - cos_ij of their keys averaged over heads. The distance of clusters G, H is the mean (`average`),
    the maximum (`complete`) or the minimum (`single`) of d_ij over i in G and j in H. Sizes do not enter it. The class token stays alone.
    The released code clusters image by image on the host with scikit-learn, also what lies on a GPU; here it is clustered where it is. The
    clusters are the same, and in a tie the first pair merges.

    Args:
        context: see `Context`.
        linkage: `average` (published), `complete` or `single`.
        variant: `fixed` or `released`. Where attention is not proportional (`treatment.proportional=false`), the released code forgets the
            sizes of tokens after each block, so that a mean does not count what went in before: `released` does so.

    Raises:
        InvalidConfig: The linkage or variant is unknown.
    """

    site = Site.INSIDE
    merging = True
    module = "clustering"
    label = "ATC"
    paper = "ATC, ECCV 2024"
    published = {"treatment": "merge", "schedule": {"name": "stages", "keep_rate": 0.7}}

    def __init__(self, context: Context, linkage: str = "average", variant: str = "fixed") -> None:
        super().__init__(context)
        self.linkage = one_of(self.name, "linkage", linkage, LINKAGES)
        self.forgets = one_of(self.name, "variant", variant, VARIANTS) == "released"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep one slot of each of `budget.keep` clusters, which the others of the cluster name as their target."""
        metric = directions(seen.summed_keys().to(torch.promote_types(seen.tokens.dtype, torch.float32)))
        target = clustered(1 - metric @ metric.transpose(1, 2), seen.live, budget.live - budget.keep, self.linkage)
        keep = seen.live & (target == torch.arange(target.shape[1], device=target.device))
        slots = sort_stably((~keep).to(torch.uint8))[1][:, : budget.keep] if seen.complete else None
        weight = torch.ones_like(seen.tokens[..., 0]) if self.forgets else None
        return Decision(keep, target=target, weight=weight, slots=slots)

    def macs(self, slots: float) -> float:
        """Return M^2 d of the distances. A join takes M^2 comparisons and 2 M multiplications, which are not counted."""
        return slots**2 * self.context.dim / self.context.heads
