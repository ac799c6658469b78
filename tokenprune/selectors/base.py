"""What a selector is, and what it may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.blocks.timm_vit import Projection
from tokenprune.schedules import Budget
from tokenprune.state import Decision, TokenState

COLUMN_CHUNK = 256


@dataclass(frozen=True)
class Context:
    """What a selector is built with: C channels, h heads, the decision's block and budget, the model's depth and prefix length P."""

    dim: int
    heads: int
    block: int
    budget: Budget
    depth: int
    prefix: int


class Observation:
    """A lazy, read-only view of the tokens at one block; nothing here ever holds a T x T matrix.

    Args:
        state: tokens before the block (site `before`) or after its attention (site `inside`).
        block: 0-based block number.
        projection: q, k, v of the block where they exist (sites `rows`, `inside`, and `observe`).
        bias: (B,P+M) key bias of that attention, or None.
    """

    def __init__(self, state: TokenState, block: int, projection: Projection | None = None, bias: Tensor | None = None) -> None:
        self.state, self.block, self.projection, self.bias = state, block, projection, bias
        self.tokens, self.live = state.tokens, state.live

    def cls_row(self) -> Tensor:
        """Return the CLS query's attention to each slot, (B,h,M): exact rows of the softmax over all T keys, in O(T)."""
        return self._rows(self.projection.q[:, :, :1])[:, :, 0]

    def mean_query(self) -> Tensor:
        """Return the attention of the mean live query to each slot, (B,h,M), in O(T); needs no CLS."""
        weight = self._live_queries().unsqueeze(1).unsqueeze(-1)
        mean = (self.projection.q * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True)
        return self._rows(mean)[:, :, 0]

    def column_mean(self) -> Tensor:
        """Return the attention each slot receives, averaged over live queries, (B,h,M): Cropr's Attn Top-K, in chunks of queries."""
        q, weight = self.projection.q, self._live_queries()
        total = q.new_zeros(*q.shape[:2], self.tokens.shape[1])
        for some, w in zip(q.split(COLUMN_CHUNK, 2), weight.split(COLUMN_CHUNK, 1), strict=True):
            total = total + (self._rows(some) * w[:, None, :, None]).sum(2)
        return total / weight.sum(1)[:, None, None]

    def keys(self) -> Tensor:
        """Return the mean key over heads of each slot, (B,M,d): ToMe's similarity metric."""
        return self.projection.k[:, :, self.state.prefix.shape[1] :].mean(1)

    def value_norms(self) -> Tensor:
        """Return the L2 norm of each slot's value over all heads jointly, (B,M): ATS Eq. 3."""
        v = self.projection.v[:, :, self.state.prefix.shape[1] :]
        return v.transpose(1, 2).flatten(2).norm(dim=-1)

    def pixels(self) -> Tensor:
        """Return the input pixels of each grid position, (B,N,3,p*p)."""
        images, (H, W) = self.state.pixels, self.state.grid
        size = (images.shape[2] // H, images.shape[3] // W)
        return F.unfold(images, size, stride=size).unflatten(1, (images.shape[1], -1)).permute(0, 3, 1, 2)

    def trait(self, name: str, missing: float = 0.0) -> Tensor:
        """Return a stored trait per slot (B,M,...)."""
        return self.state.trait(name, missing)

    @cached_property
    def _padded_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias[:, None, None, :]

    def _rows(self, q: Tensor) -> Tensor:
        logits = (q * self.projection.scale) @ self.projection.k.transpose(-2, -1)
        logits = logits if self._padded_bias is None else logits + self._padded_bias
        return logits.softmax(-1)[..., self.state.prefix.shape[1] :]

    def _live_queries(self) -> Tensor:
        prefix = self.live.new_ones(self.live.shape[0], self.state.prefix.shape[1])
        return torch.cat([prefix, self.live], 1).to(self.projection.q.dtype)


class Selector(nn.Module):
    """Which tokens stay? Holds parameters only, never anything of a batch.

    Class facts, from which legality is decided before a weight is loaded:
        site: `before` a block, `rows` (after qkv, before attention), `inside` (after attention, before the MLP).
        budget: fixed (as many as the schedule says) or dynamic (its own number per image), at test time.
        gated: trains by a straight-through gate, hence in masked execution.
        visibility: in training, `hard` (dropped keys masked) or `soft` (DynamicViT's policy softmax).
        reads_cls: scores by the class token's attention. absorbing: a dropped token can never be wanted again.
        merging: names a target for each dropped token.
        cap(live, prefix): how many slots one decision can drop at most.
        published: treatment and schedule of the paper, the defaults of `tokenprune.prune`.
    """

    name: ClassVar[str]
    site: ClassVar[str] = "before"
    budget: ClassVar[str] = "fixed"
    gated: ClassVar[bool] = False
    visibility: ClassVar[str] = "hard"
    reads_cls: ClassVar[bool] = False
    absorbing: ClassVar[bool] = False
    merging: ClassVar[bool] = False
    module: ClassVar[str] = "parameter-free"
    paper: ClassVar[str] = ""
    cap: ClassVar[Callable[[int, int], int] | None] = None
    published: ClassVar[Mapping[str, Any]] = {"treatment": "remove", "schedule": {"name": "stages"}}

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Return the declared facts, as the list, the docs and SViT's Table 1 print them."""
        keys = ("site", "budget", "gated", "visibility", "reads_cls", "absorbing", "merging", "module", "paper")
        return {key: getattr(cls, key) for key in keys}

    @property
    def counts_vary(self) -> bool:
        """Tell whether, in the present mode, images of a batch may keep different numbers of tokens."""
        return self.budget == "dynamic" or (self.training and self.gated)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the decision on the slots of `seen`."""
        raise TypeError(f"selector {type(self).__name__} must define score(seen, budget) -> Decision")

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return traits (B,M) to remember for live slots; called at every block if overridden."""
        return {}

    def macs(self, slots: float) -> float:
        """Return the MACs of one decision over `slots` tokens of one image."""
        return 0.0

    def deploy(self) -> "Selector":
        """Return the selector as it is used at inference, without parts that only training needs."""
        return self


def keep_top(score: Tensor, live: Tensor, count: int) -> Decision:
    """Keep the `count` best live slots of score (B,M); ties go to the earlier slot, so that every execution agrees."""
    ranked = score.detach().float().masked_fill(~live, float("-inf")).sort(dim=1, descending=True, stable=True).indices
    keep = torch.zeros_like(live).scatter_(1, ranked[:, :count], True) & live
    return Decision(keep, score=score)


def at_least_one(keep: Tensor, score: Tensor, live: Tensor) -> Tensor:
    """Return keep (B,M) with the best live slot added where an image would keep nothing (the released SViT turns NaN there)."""
    best = score.detach().masked_fill(~live, float("-inf")).argmax(1, keepdim=True)
    empty = ~keep.any(1, keepdim=True)
    return keep | (empty & torch.zeros_like(keep).scatter_(1, best, True))


def sampled(log_probs: Tensor, live: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """Draw hard keep decisions from log_probs (B,M,2), index 0 = keep, by Gumbel-softmax.

    Returns:
        keep (B,M) bool among live slots, at least one an image; gate (B,M), the same as 0/1 with a straight-through gradient.
    """
    gate = F.gumbel_softmax(log_probs, tau=tau, hard=True)[..., 0]
    keep = at_least_one((gate > 0) & live, log_probs[..., 0], live)
    return keep, gate + (keep.to(gate.dtype) - gate).detach()
