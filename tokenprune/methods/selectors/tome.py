"""Defines ToMe's bipartite soft matching (Bolya et al., ICLR 2023, section 3), which pairs the tokens that merge."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector
from tokenprune.methods.selectors.shared.bipartite import Split, cosines, half, matched, merging
from tokenprune.registry import register


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
        split, merged = Split.of(seen, budget.live), budget.live - budget.keep
        by_rank = seen.state.prefix_count > 0  # without a class token the released order is that of similarity
        return merging(seen.mask, *matched(split, cosines(seen.summed_keys(), split), merged, by_rank))

    def macs(self, slots: float) -> float:
        """Return (M/2)^2 d, for the M/2 x M/2 similarities of d channels."""
        return (slots / 2) ** 2 * self.context.dim / self.context.heads
