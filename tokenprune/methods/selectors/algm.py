"""Defines ALGM (Norouzi et al., CVPR 2024): tokens merge inside small windows first, and among all in a later block."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.bipartite import Split, cosines
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS, SIDE = ("fixed", "released"), 2


@register("selector", "algm")
class LocalThenGlobalMerging(Selector):
    """Merges windows of 2 x 2 tokens at the first decision and pairs of tokens at later ones, as many as are similar enough (section 3).

    First decision: a window becomes one token if the mean cosine of its 12 ordered pairs is at least `threshold`. Later decisions: ranks
    are split into A and B as in ToMe; a token of A merges into its most similar one of B if s_i, their cosine, is >= mean(s) + std(s) / l
    over A in layer l, counted from 1. Cosines are those of tokens, not of keys. Each image has its own count, whatever the schedule
    says: it names the blocks. Ranks follow the released order: merged windows by falling similarity, then the others in raster order.
    Rows and columns of an odd grid that fill no window stay as they are.

    Args:
        context: see `Context`.
        threshold: Least mean cosine of a window that merges; 0.88 for ViT-S.
        variant: `fixed` or `released`. In the released code all images of a batch merge as many as the one that wants fewest, and the
            second threshold is the mean of their own: `released` does so, and a result then depends on its batch mates.

    Raises:
        InvalidConfig: The variant is unknown, or the threshold is no cosine.
    """

    site = Site.INSIDE
    budget = "dynamic"
    count_role = "blocks"
    dial = ("threshold", -1.0, 1.0)
    merging = True
    module = "similarity-based"
    label = "ALGM"
    paper = "ALGM, CVPR 2024"
    published = {"treatment": {"name": "merge", "proportional": False}, "schedule": {"name": "listed", "blocks": (0, 4)}}

    def __init__(self, context: Context, threshold: float = 0.88, variant: str = "fixed") -> None:
        super().__init__(context)
        self.threshold, self.local = threshold, context.budget.stage == 0
        self.released = one_of(self.name, "variant", variant, VARIANTS) == "released"
        if not -1 <= threshold <= 1:
            raise InvalidConfig(f"{self.name}: threshold is {threshold}; allowed: a cosine, -1 to 1")

    @property
    def caveat(self) -> str:
        """Return the remark that the tokens themselves set their number."""
        return "tokens merge where they are similar enough: no keep rate is aimed at, read the kept share"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Merge windows at the first decision, pairs at later ones."""
        return self.windows(seen) if budget.stage == 0 else self.pairs(seen)

    def windows(self, seen: Observation) -> Decision:
        """Merge the tokens of each window of similar ones into its first; slots are in raster order here."""
        (B, M), (H, W) = seen.live.shape, seen.state.grid
        places = torch.arange(M, device=seen.live.device)
        inside = places.view(H, W)[: H // SIDE * SIDE, : W // SIDE * SIDE]
        members = inside.unflatten(0, (-1, SIDE)).unflatten(2, (-1, SIDE)).transpose(1, 2).reshape(-1, SIDE * SIDE)  # (windows,4)
        unit = F.normalize(seen.tokens.detach(), dim=-1)[:, members]
        cosine = (unit @ unit.transpose(2, 3)).masked_fill(torch.eye(SIDE * SIDE, dtype=torch.bool, device=places.device), 0.0)
        similarity = cosine.sum((2, 3)) / (SIDE**2 * (SIDE**2 - 1))  # (B,windows)
        rank = _ranks(similarity)
        merges = self._agreed(similarity >= self.threshold, rank)
        first, rest = members[:, 0], members[:, 1:].flatten()
        keep = seen.live.index_copy(1, rest, ~merges.repeat_interleave(SIDE**2 - 1, 1))
        target = places.scatter(0, members.flatten(), first.repeat_interleave(SIDE**2)).expand(B, M)
        later = (places + M).expand(B, M)
        return self._decided(keep, target, later.index_copy(1, first, rank.where(merges, later[:, first])))

    def pairs(self, seen: Observation) -> Decision:
        """Merge each token of A that is similar enough into its most similar one of B."""
        ranked, M = seen.ranked(), seen.live.shape[1]
        split = Split.of(seen, ranked.shape[1])
        alive_a, alive_b = (seen.live.gather(1, side) for side in (split.a, split.b))
        best, partner = F.pad(cosines(seen.tokens, split).masked_fill(~alive_b.unsqueeze(1), -2.0), (0, 1), value=-2.0).max(-1)
        counts = alive_a & (best > -2)
        n = counts.sum(1, keepdim=True)
        mean = best.where(counts, 0.0).sum(1, keepdim=True) / n.clamp(min=1)
        std = ((best - mean).square().where(counts, 0.0).sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
        mean, std = (mean.mean(), std.mean()) if self.released else (mean, std)
        merges = self._agreed(counts & (n > 1) & (best >= mean + std / (seen.block + 1)), _ranks(best))
        keep = seen.live.scatter(1, split.a, alive_a & ~merges)
        place = torch.arange(M, device=keep.device).expand(keep.shape)
        into = split.b.gather(1, partner.clamp(max=split.b.shape[1] - 1)) if split.b.shape[1] else split.a
        rank = place.scatter(1, ranked, place[:, : ranked.shape[1]])
        target = place.scatter(1, split.a, into.where(merges, split.a))
        return self._decided(keep, target, rank.scatter_add(1, split.b, torch.full_like(split.b, M)))

    def _agreed(self, merges: Tensor, rank: Tensor) -> Tensor:
        """Return what merges (B,K): under `released` as many of the best in each image as in the one that wants fewest."""
        return rank < merges.sum(1).min() if self.released else merges

    @staticmethod
    def _decided(keep: Tensor, target: Tensor, rank: Tensor) -> Decision:
        """Return the decision that keeps slots (B,M) in the order of their rank (B,M), dropped and dead ones last."""
        return Decision(keep, target=target, order=sort_stably(rank.masked_fill(~keep, 2**31))[1])

    def macs(self, slots: float) -> float:
        """Return 4 M C of the cosines in windows, or (M/2)^2 C of those of pairs."""
        return self.context.dim * (SIDE**2 * slots if self.local else (slots / 2) ** 2)


def _ranks(values: Tensor) -> Tensor:
    """Return the place of each value (B,K) among those of its row, the greatest first."""
    order = sort_stably(values, descending=True)[1]
    return torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
