"""Packed rows of a number that is set beforehand, so that the host need not ask the device how many there are.

A batch is packed into `capacity` rows: the live ones of all images first, one image after the other, then some dead ones that are computed
for nothing and never written. A pass of known sizes can be captured as a CUDA graph. Where more rows are live than fit, the pass is wrong,
and `overflow` says so: whoever sets a capacity must look at it (see `measure.replayed`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.lazy import once
from tokenprune.engine.packing import Packing


@dataclass(frozen=True, eq=False)
class CappedPacking(Packing):
    """A packing of T = `capacity` rows.

    lengths is empty: the host does not know them. `starts` still are the first rows of the images, and the end of the live ones. block: of
    the decision.
    """

    block: int = 0
    capacity: int = 0

    @classmethod
    def within(cls, live: Tensor, prefix: int, block: int, capacity: int) -> "CappedPacking":
        """Return the packing of a mask (B,M) behind `prefix` rows, after the decision of a block; asks the device nothing."""
        return cls(live, prefix, (), block, min(capacity, live.shape[0] * (prefix + live.shape[1])))

    def describes(self, live: Tensor, prefix: int) -> bool:
        """Tell whether this is the packing of a mask (B,M) behind `prefix` rows; reads the device."""
        return torch.equal(self.live, live) and self.prefix == prefix

    @property
    def even(self) -> bool:
        """Return False: nobody knows."""
        return False

    @property
    def longest(self) -> int:
        """Return an upper bound of the rows of an image: all of its slots."""
        return self.prefix + self.live.shape[1]

    @property
    def overflow(self) -> Tensor:
        """Return whether more rows are live than fit, () bool on the device."""
        return self.alive.sum() > self.capacity

    @once
    def starts(self) -> Tensor:
        """Return the first row of each image, and the end of the live ones, (B+1,) int32.

        None lies behind the last row: where rows overflow, a kernel would read what is not there.
        """
        ends = self.alive.sum(1).cumsum(0).clamp(max=self.capacity)
        return torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)

    @once
    def rows(self) -> Tensor:
        """Return the places of the packed rows in the flat batch, (T,): live ones ascending, then dead ones."""
        return self.alive.flatten().to(torch.uint8).argsort(descending=True, stable=True)[: self.capacity]

    @once
    def real(self) -> Tensor:
        """Return which packed rows are live, (T,)."""
        return self.alive.flatten().index_select(0, self.rows)

    @once
    def window(self) -> tuple[Tensor, Tensor]:
        """Return each image's places in the packed row, padded to all of its slots, (B,S), and which are real (B,S)."""
        place = torch.arange(self.longest, device=self.live.device)
        return (self.starts[:-1, None] + place).clamp(max=self.capacity - 1), place < self.starts.diff()[:, None]

    @once
    def back(self) -> Tensor:
        """Return where each packed row is in the flat `window`, (T,); anywhere for a dead one."""
        image = self.rows // self.longest
        place = torch.arange(self.capacity, device=self.live.device) - self.starts[image]
        return image * self.longest + place.clamp(min=0, max=self.longest - 1)

    def slots(self) -> tuple[Tensor, Tensor | None]:
        """Refuse: dead slots stay in their place, because the number of live ones is not known."""
        raise RuntimeError("a capped packing does not know its numbers of live slots; dead ones stay in their place")

    def take(self, x: Tensor) -> Tensor:
        """Return the packed rows of x (B,S,...) as (1,T,...)."""
        return x.flatten(0, 1).index_select(0, self.rows).unsqueeze(0)

    def put(self, x: Tensor, packed: Tensor) -> Tensor:
        """Return x (B,S,...) with its live rows written from packed (1,T,...), in place; dead ones keep their value."""
        values = packed.squeeze(0)
        kept = values.where(self.real.view(-1, *[1] * (values.dim() - 1)), x.flatten(0, 1).index_select(0, self.rows))
        return super().put(x, kept.unsqueeze(0))

    def spread(self, packed: Tensor, dim: int = 1) -> Tensor:
        """Return packed (1,...,T,...) along `dim` as a padded batch, zeros where nothing is live."""
        rows = packed.transpose(1, dim)
        rows = rows.masked_fill(~self.real.view(1, -1, *[1] * (rows.dim() - 2)), 0)
        return super().spread(rows.transpose(1, dim), dim)
