"""A block of which each image uses some attention heads and sub-layers only (AdaViT)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock, Projection
from tokenprune.engine.packing import Packing

if TYPE_CHECKING:
    from tokenprune.engine.decision import Branch
    from tokenprune.engine.state import TokenState


def switched(block: BaseBlock, branch: "Branch | None") -> Any:
    """Return the adapter of a block that runs the given heads and sub-layers of each image; the block itself for None."""
    return block if branch is None else SwitchedBlock(block, *branch)


class SwitchedBlock:
    """The adapter of one block for one pass of one batch.

    A head that is off adds nothing to the projection (its values are zeros), a sub-layer that is off leaves the residual stream as it is.
    Both are multiplications by 0/1 gates, so that a straight-through gradient reaches the gates; nothing is skipped: images of a batch
    switch off different parts.

    Args:
        block: the adapter that is wrapped; everything that is not said here is its own.
        heads: (B,h) gates in [0,1].
        sublayers: (B,2), attention and MLP.
        narrows: Whether the MLP's input is multiplied by the gates, too, each head's share of the channels by its own.
    """

    def __init__(self, block: BaseBlock, heads: Tensor, sublayers: Tensor, narrows: bool = False) -> None:
        self._block, self._heads, self._sublayers, self._narrows = block, heads, sublayers, narrows
        self._packing: Packing | None = None  # of the rows, once they are known to be packed in one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def runs_whole(self, state: "TokenState") -> bool:
        """Return False: the block itself knows no switches."""
        return False

    def attend(self, p: Projection, *args: Any, **options: Any) -> Tensor:
        """Return the attention branch (B,K,C) of images of equal length, see `BaseBlock.attend`."""
        out = self._block.attend(self._headed(p, None), *args, **options)
        return out * _rows(self._sublayers, None)[..., :1].to(out.dtype)

    def attend_ragged(self, p: Projection, asking: Packing, seen: Packing, *args: Any, **options: Any) -> Tensor:
        """Return the attention branch (1,Q,C) of images packed in one row, see `BaseBlock.attend_ragged`."""
        self._packing = asking
        out = self._block.attend_ragged(self._headed(p, seen), asking, seen, *args, **options)
        return out * _rows(self._sublayers, asking)[..., :1].to(out.dtype)

    def feed(self, x: Tensor) -> Tensor:
        """Return the MLP branch, in the form that the attention had: padded (B,T,C) or packed (1,T,C)."""
        channels = None
        if self._narrows:
            wide = self._heads.repeat_interleave(x.shape[-1] // self._heads.shape[1], 1)
            channels = _rows(wide, self._packing).to(x.dtype)
        out = self._block.feed(x, channels)
        return out * _rows(self._sublayers, self._packing)[..., 1:].to(out.dtype)

    def _headed(self, p: Projection, packing: Packing | None) -> Projection:
        heads = _rows(self._heads, packing).transpose(1, 2).unsqueeze(-1)  # (B,h,1,1), packed (1,h,T,1)
        return replace(p, v=p.v * heads.to(p.v.dtype))


def _rows(gates: Tensor, packing: Packing | None) -> Tensor:
    """Gates (B,k) of images as gates of their rows: (B,1,k), or packed (1,T,k)."""
    if packing is None:
        return gates.unsqueeze(1)
    return gates.index_select(0, packing.rows // packing.alive.shape[1]).unsqueeze(0)
