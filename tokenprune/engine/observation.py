"""What a selector may look at."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.blocks.base import ProjectionView
from tokenprune.engine.blocks.windowed import received
from tokenprune.engine.indexing import sized, sort_stably, traced
from tokenprune.engine.state import TokenState
from tokenprune.errors import TokenPruneError

COLUMN_CHUNK = 256


class Observation:
    """A lazy, read-only view of the tokens at one block; nothing here ever holds a T x T matrix, but for the block's own at site `ahead`.

    Args:
        state: tokens before the block (site `before`) or after its attention (site `inside`).
        block: 0-based block number.
        projection: q, k, v of the block where they exist (sites `rows`, `inside`, and `MethodHooks.observe`); at site `ahead`, and for
            selectors that peek, queries and keys only.
        bias: (B,P+M) key bias of that attention, or None.
        progress: share of training that is done, in [0,1]; 1 at test.
        precedes: whether the next block begins with a decision (for `MethodHooks.observe`).
    """

    def __init__(
        self,
        state: TokenState,
        block: int,
        projection: ProjectionView | None = None,
        bias: Tensor | None = None,
        progress: float = 1.0,
        precedes: bool = False,
    ) -> None:
        self.state, self.block, self.bias, self._projection = state, block, bias, projection
        self.progress, self.precedes = progress, precedes

    @property
    def tokens(self) -> Tensor:
        """(B,M,C) tokens of all slots."""
        return self.state.tokens

    @property
    def live(self) -> Tensor:
        """(B,M) which slots are live, see `mask`."""
        return self.state.live

    @property
    def complete(self) -> bool:
        """Whether every slot is known to be live."""
        return self.state.known.complete

    @property
    def mask(self) -> Tensor | None:
        """(B,M) which slots are live, None where all are known to be."""
        return None if self.state.known.complete else self.state.live

    @property
    def projection(self) -> ProjectionView:
        """Queries, keys and values of the block.

        Raises:
            TokenPruneError: before a block, where there are none.
        """
        if self._projection is None:
            raise TokenPruneError(
                f"block {self.block}: queries, keys and values do not exist before a block; allowed: a selector of site rows or inside, or"
                " hooks that observe the block before"
            )
        return self._projection

    def cls_row(self) -> Tensor:
        """Return the CLS query's attention to each slot, (B,h,M): exact rows of the softmax over all T keys, in O(T)."""
        return self._rows(self.projection.q[:, :, :1])[:, :, 0]

    def mean_query(self) -> Tensor:
        """Return the attention of the mean live query to each slot, (B,h,M), in O(T); needs no CLS. In windows: of each window's mean."""
        if self.projection.windows is not None:
            return received(self.projection, self.projection.windows, mean=True)
        weight = self._live_queries().unsqueeze(1).unsqueeze(-1)
        mean = (self.projection.q * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True)
        return self._rows(mean)[:, :, 0]

    def column_mean(self) -> Tensor:
        """Return the attention each slot receives, averaged over live queries, (B,h,M): Cropr's Attn Top-K, in chunks of queries.

        In a block that attends inside windows it is the mean over the queries of the slot's window.
        """
        if self.projection.windows is not None:
            return received(self.projection, self.projection.windows)
        q, weight = self.projection.q, self._live_queries()
        if self.projection.map is not None:
            rows = self.projection.map[..., self.state.prefix_count :] * weight[:, None, :, None]
            return rows.sum(2) / weight.sum(1)[:, None, None]
        total = q.new_zeros(*q.shape[:2], self.tokens.shape[1])
        for some, w in zip(q.split(COLUMN_CHUNK, 2), weight.split(COLUMN_CHUNK, 1), strict=True):
            total = total + (self._rows(some) * w[:, None, :, None]).sum(2)
        return total / weight.sum(1)[:, None, None]

    def summed_keys(self) -> Tensor:
        """Return the sum of each slot's keys over heads, (B,M,d): its cosines are those of their mean, ToMe's metric."""
        return self.projection.k[:, :, self.state.prefix_count :].sum(1)

    def value_norms(self) -> Tensor:
        """Return the L2 norm of each slot's value over all heads jointly, (B,M): ATS Eq. 3."""
        return self._values().transpose(1, 2).flatten(2).norm(dim=-1)

    def head_value_norms(self) -> Tensor:
        """Return the L2 norm of each slot's value in each head, (B,h,M)."""
        return self._values().norm(dim=-1)

    def pixels(self) -> Tensor:
        """Return the input pixels of each grid position, (B,N,3,p*p).

        Raises:
            TokenPruneError: a state that was made without images.
        """
        images, (H, W) = self.state.pixels, self.state.grid
        if images is None:
            raise TokenPruneError(f"block {self.block}: the state holds no images; give them to TokenState.start(..., pixels=images)")
        height, width = sized(images.shape[2]), sized(images.shape[3])
        if height % H or width % W:
            raise TokenPruneError(
                f"block {self.block}: images of {height} x {width} pixels do not divide into the grid of {H} x {W}; give"
                " TokenState.start the pixels that patches cover, as `Family.covered` returns them"
            )
        size = (height // H, width // W)
        return F.unfold(images, size, stride=size).unflatten(1, (images.shape[1], -1)).permute(0, 3, 1, 2)

    def ranked(self, count: int | None = None) -> Tensor:
        """Return the slots in the order that decisions have set (`Decision.order`), else in their own, live ones first.

        Args:
            count: of slots to return, (B,count), where as many are live in each image; None for (B,K) with all live ones among them.
        """
        state = self.state
        (B, M), order = state.index.shape, state.order
        if order is None:
            order = torch.arange(M, device=state.index.device).expand(B, M)
            order = order if state.known.complete else sort_stably((~self.live).to(torch.uint8))[1]
        return order if count is None else order[:, :count]

    def policy(self) -> Tensor:
        """Return how far each slot counts, (B,M): the gate of the last decision, or 1 for live slots (all of them under reactivation)."""
        return self.live.to(self.tokens.dtype) if self.state.gate is None else self.state.gate

    def trait(self, name: str, missing: float = 0.0) -> Tensor:
        """Return a stored trait per slot (B,M,...)."""
        return self.state.trait(name, missing)

    def _values(self) -> Tensor:
        return self.projection.v[:, :, self.state.prefix_count :]

    def _rows(self, q: Tensor) -> Tensor:
        logits = _products(q * self.projection.scale, self.projection.k)
        logits = logits if self.bias is None else logits + self.bias[:, None, None, :]
        return logits.softmax(-1, dtype=self.tokens.dtype)[..., self.state.prefix_count :]  # in half precision only if the tokens are

    def _live_queries(self) -> Tensor:
        prefix = self.live.new_ones(self.live.shape[0], self.state.prefix_count)
        return torch.cat([prefix, self.live], 1).to(self.projection.q.dtype)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """Return the products (B,h,Q,T) of queries (B,h,Q,d) and keys (B,h,T,d).

    Keys of a layer that makes all heads in one row cannot be transposed head by head in a batch without a copy of them all. A single query
    is spread instead, (B,hd,h) with zeros between heads, so that one product reads the rows as they lie: a quarter of the time at batch 8.
    """
    (B, h, Q, _), together = q.shape, k.stride(1) == k.shape[3] and k.stride(3) == 1
    if Q > 1 or B == 1 or not together or traced():
        return q @ k.transpose(-2, -1)
    spread = (q.transpose(2, 3) * torch.eye(h, dtype=q.dtype, device=q.device).unsqueeze(1)).flatten(1, 2)
    return (k.transpose(1, 2).flatten(2) @ spread).transpose(1, 2).unsqueeze(2)
