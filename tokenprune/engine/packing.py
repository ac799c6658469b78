"""Uneven batches without padding: the live rows of all images, one after the other, in one row of T tokens (1,T,C).

Layers that treat each token by itself (norms, weights, MLP) run on it unchanged and waste nothing; only attention has to know where an
image ends. S = P+M is the length of the padded sequence that the rows come from.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.engine.lazy import once

if TYPE_CHECKING:
    from tokenprune.engine.blocks.base import Projection


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the live rows of a batch of sequences (B,S,...) are.

    live (B,M) is the mask it stands for; prefix = P rows of each image come first and are always live; lengths: rows of each image,
    prefix included, on the host.
    """

    live: Tensor
    prefix: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, live: Tensor, prefix: int) -> "Packing":
        """Return the packing of a mask (B,M): asks the device once, the one host sync of a selection."""
        return cls(live, prefix, tuple(n + prefix for n in live.sum(1).tolist()))

    def describes(self, live: Tensor, prefix: int) -> bool:
        """Tell whether this is the packing of a mask (B,M) behind `prefix` rows; reads the device."""
        return torch.equal(self.live, live) and self.prefix == prefix and self.lengths == Packing.of(live, prefix).lengths

    @property
    def even(self) -> bool:
        """Tell whether all images have the same number of rows."""
        return min(self.lengths) == max(self.lengths)

    @property
    def longest(self) -> int:
        """Return the rows of the longest image."""
        return max(self.lengths)

    @once
    def alive(self) -> Tensor:
        """Return which rows of the padded sequence are live, (B,S)."""
        return torch.nn.functional.pad(self.live, (self.prefix, 0), value=1) if self.prefix else self.live

    @once
    def rows(self) -> Tensor:
        """Return the live rows' places in the flat batch (B*S,...), ascending, (T,)."""
        alive = self.alive.flatten()
        if not alive.is_cuda:
            return alive.nonzero().squeeze(1)
        return alive.to(torch.uint8).argsort(descending=True, stable=True)[: sum(self.lengths)]  # nonzero would sync once more

    @once
    def starts(self) -> Tensor:
        """Return the first row of each image in the packed row, and T at the end, (B+1,) int32 on the device."""
        return torch.nn.functional.pad(self.alive.sum(1).cumsum(0), (1, 0)).to(torch.int32)

    @once
    def window(self) -> tuple[Tensor, Tensor]:
        """Return each image's places in the packed row, padded to the longest, (B,L), and which are real (B,L)."""
        place = torch.arange(self.longest, device=self.live.device)
        return (self.starts[:-1, None] + place).clamp(max=sum(self.lengths) - 1), place < self.starts.diff()[:, None]

    @once
    def back(self) -> Tensor:
        """Return where each packed row is in the flat `window`, (T,)."""
        B, T, longest = len(self.lengths), sum(self.lengths), self.longest
        image = torch.arange(B, device=self.live.device).repeat_interleave(self.starts.diff(), output_size=T)
        return torch.arange(T, device=self.live.device) + image * longest - self.starts[image]

    def slots(self) -> tuple[Tensor, Tensor | None]:
        """Return live slots in slot order, (B,K), and which are real, None if all: uneven counts leave padding at the end."""
        B, M = self.live.shape
        if self.even:
            return (self.rows.view(B, -1)[:, self.prefix :] % (self.prefix + M)) - self.prefix, None
        return self.ordered(self.live.to(torch.uint8).argsort(dim=1, descending=True, stable=True))

    def ordered(self, order: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what `slots` does, in an order (B,K) that lists live slots first."""
        slots = order[:, : self.longest - self.prefix]
        return slots, None if self.even else torch.arange(slots.shape[1], device=slots.device) < self.live.sum(1, keepdim=True)

    def take(self, x: Tensor) -> Tensor:
        """Return the live rows of x (B,S,...) as (1,T,...)."""
        if sum(self.lengths) == self.alive.numel():
            return x.flatten(0, 1).unsqueeze(0)
        return x.flatten(0, 1).index_select(0, self.rows).unsqueeze(0)

    def put(self, x: Tensor, packed: Tensor) -> Tensor:
        """Return x (B,S,...) with its live rows written from packed (1,T,...), in place: x must be a sequence made for this."""
        return x.flatten(0, 1).index_copy_(0, self.rows, packed.squeeze(0)).view_as(x)

    def spread(self, packed: Tensor, dim: int = 1) -> Tensor:
        """Return packed (1,...,T,...) along `dim` as a padded batch (B,...,S,...), zeros where nothing is live."""
        rows = packed.transpose(1, dim)
        full = rows.new_zeros(self.live.shape[0] * self.alive.shape[1], *rows.shape[2:])
        return full.index_copy(0, self.rows, rows.squeeze(0)).unflatten(0, self.alive.shape).transpose(1, dim)

    def rank(self, rows: Tensor) -> Tensor:
        """Return the place in the packed row of rows (K,) of the flat batch, all of them live."""
        places = torch.zeros(self.alive.numel(), dtype=torch.long, device=rows.device)
        return places.index_copy_(0, self.rows, torch.arange(len(self.rows), device=rows.device)).index_select(0, rows)


class Spread:
    """A projection of packed rows as selectors read one: q, k and v (B,h,S,d), padded only when asked for."""

    windows = map = None  # blocks that attend inside windows, or make their attention map, never run packed

    def __init__(self, projection: "Projection", packing: Packing) -> None:
        self._packed, self._packing, self.scale = projection, packing, projection.scale
        self._padded: dict[str, Tensor] = {}

    @property
    def q(self) -> Tensor:
        """Return the queries."""
        return self._spread("q")

    @property
    def k(self) -> Tensor:
        """Return the keys."""
        return self._spread("k")

    @property
    def v(self) -> Tensor:
        """Return the values."""
        return self._spread("v")

    def _spread(self, name: str) -> Tensor:
        if name not in self._padded:
            self._padded[name] = self._packing.spread(getattr(self._packed, name), 2)
        return self._padded[name]
