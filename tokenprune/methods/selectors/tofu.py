"""Defines ToFu's selector (Kim et al., WACV 2024): ToMe's matching, whose pairs are dropped in early blocks and merged in later ones."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector
from tokenprune.methods.selectors.shared.bipartite import Split, cosines, half, matched, merging
from tokenprune.registry import register


@register("selector", "tofu")
class TokenFusion(Selector):
    """Splits tokens by rank into alternating sets A and B, and takes the r pairs of A and B of greatest cosine of keys averaged over heads.

    What becomes of a pair is the treatment's: `mlerp` drops the token of A before block depth // 2 + 1, and from there on merges it into
    the token of B with the norm kept (the paper's section 3.3). Ranks follow the released order: what is left of A, then B.

    The code that was read is PiToMe's version of ToFu, not the authors' own: it changes from dropping to merging at a fixed block, where
    the paper looks at how linear a block is.
    """

    site = Site.INSIDE
    merging = True
    module = "similarity-based"
    label = "ToFu"
    paper = "ToFu, WACV 2024"
    published = {"treatment": "mlerp", "schedule": {"name": "shrink", "keep_rate": 0.9, "prefix": True}}
    cap = staticmethod(half)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Drop the sources of the `budget.live - budget.keep` most similar pairs and name their targets."""
        split = Split.of(seen, budget.live)
        similarity = cosines(seen.summed_keys(), split)
        return merging(seen.mask, *matched(split, similarity, budget.live - budget.keep))

    def macs(self, slots: float) -> float:
        """Return (M/2)^2 d of the cosines."""
        return (slots / 2) ** 2 * self.context.dim / self.context.heads
