"""Defines PPT (Wu et al., arXiv 2310.01812): each image either prunes tokens by importance or pools them by similarity."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.methods.selectors.shared.bipartite import Split, cosines, half, matched, merging
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")


@register("selector", "ppt")
class PruningOrPooling(Selector):
    """Prunes the r tokens of least score in images whose scores vary much, and pools r pairs in the others (section 3.3).

    The score is ATS's: u_j = (sum over heads of A[cls, j]) * ||v_j||, and p = u / sum u over the patches. S is the variance of p, with
    M - 1 in the denominator. S >= threshold prunes: the dropped tokens vanish, and the others are ranked by falling p from then on.
    S < threshold pools as ToMe does: the r most similar pairs of even and odd ranks merge, by cosine of keys averaged over heads, in a mean
    by mass.

    S has the dimension of a squared probability, so that a threshold means something else with another number of tokens: the published one
    is for 197 tokens.

    Args:
        context: see `Context`.
        threshold: Of S; 7e-5 is published without training, 6e-5 with it. 0 always prunes.
        variant: `fixed` or `released`. Where attention is not proportional (`treatment.proportional=false`), the released code also forgets
            the sizes of tokens after each decision, so that a mean does not count what went in before: `released` does so.

    Raises:
        InvalidConfig: The variant is unknown.
    """

    site = Site.INSIDE
    merging = True
    vanishing = True
    reads_cls = True
    module = "attention-based"
    label = "PPT"
    paper = "PPT, arXiv 2310.01812"
    published = {"treatment": "merge", "schedule": {"name": "per_block", "remove": 50, "start": 3, "step": 3, "align": False}}
    cap = staticmethod(half)

    def __init__(self, context: Context, threshold: float = 7e-5, variant: str = "fixed") -> None:
        super().__init__(context)
        self.threshold = threshold
        self.forgets = one_of(self.name, "variant", variant, VARIANTS) == "released"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Drop `budget.live - budget.keep` tokens of each image its own way."""
        live, count = seen.live, budget.live
        ranked, share = seen.ranked(count), importance(seen)
        own = share.gather(1, ranked)
        prunes = own.var(1, keepdim=True) >= self.threshold
        split = Split.of(seen, count)
        pooled = merging(seen.mask, *matched(split, cosines(seen.summed_keys(), split), count - budget.keep))
        falling = ranked.gather(1, sort_stably(own.detach(), descending=True)[1])
        kept = falling[:, : budget.keep]
        stays = torch.zeros_like(live).scatter(1, kept, 1)
        keep = stays.where(prunes, pooled.keep)
        order = kept.where(prunes, pooled.order) if pooled.order is not None else kept
        weight = torch.ones_like(share) if self.forgets else None
        return Decision(keep, pooled.targets, share, weight, vanish=live & ~keep & prunes, slots=order, order=order)

    def macs(self, slots: float) -> float:
        """Return (M/2)^2 d of the cosines and M C of the norms of values."""
        return (slots / 2) ** 2 * self.context.dim / self.context.heads + slots * self.context.dim


def importance(seen: Observation) -> Tensor:
    """Return each slot's share (B,M) of the attention of the class token times the norm of values (ATS, Eq. 3)."""
    score = (seen.cls_row().sum(1) * seen.value_norms()).masked_fill(~seen.live, 0.0)
    return score / score.sum(1, keepdim=True)
