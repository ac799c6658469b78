"""Which tokens each block used, recorded while a model runs, and the statistics of SViT's Figures 4, 5, 6 and 11 on such records.

A position is *used* by a block if its token, itself and not a merged or fused stand-in, enters the block's attention. Shapes: I images,
L blocks, N = H*W positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.engine.indexing import put
from tokenprune.engine.model import pruned_of
from tokenprune.engine.state import TokenState
from tokenprune.errors import TokenPruneError


class Used(NamedTuple):
    """One image's usage: blocks (L,N) bool on the CPU, grid (H,W) of its N positions in raster order."""

    blocks: Tensor
    grid: tuple[int, int]


class Recorder:
    """What `record` fills: `images`, one `Used` an image in the order in which they ran."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.images: list[Used] = []
        self._pass: list[Tensor] = []  # (B,N) of each block so far

    def see(self, block: int, state: TokenState) -> None:
        """Note what enters a block's attention (the engine's watcher).

        Raises:
            TokenPruneError: a block was left out, so that the usage of these images would be incomplete.
        """
        if block != len(self._pass):
            self.close()
            raise TokenPruneError(f"usage: block {block} ran without the blocks before it; record passes from block 0 to {self.depth - 1}")
        self._pass.append(positions_used(state))
        if block == self.depth - 1:
            used, self._pass = torch.stack(self._pass, 1).cpu(), []
            self.images += [Used(image, state.grid) for image in used]

    def close(self) -> None:
        """End the recording.

        Raises:
            TokenPruneError: the last pass did not reach the last block.
        """
        ran, self._pass = len(self._pass), []
        if ran:
            raise TokenPruneError(f"usage: a pass ended after block {ran - 1}; record passes that run every block, 0 to {self.depth - 1}")


@contextmanager
def record(model: nn.Module) -> Iterator[Recorder]:
    """Record the positions used by each block of every image that `model` sees inside the `with` block.

    Args:
        model: a PrunedViT or any module around one (a dense map, a detector); batches, image sizes and executions may vary.

    Raises:
        TokenPruneError: no PrunedViT in the model, or a pass that did not run every block, in order.

    Example:
        with record(detector) as seen:
            detector(inputs)
        layers_per_token(seen.images[0].blocks)
    """
    pruned = pruned_of(model)
    if pruned is None:
        raise TokenPruneError(f"usage: {type(model).__name__} has no PrunedViT inside; make one with tokenprune.prune")
    recorder, before = Recorder(pruned.depth), pruned.watch

    def see(block: int, state: TokenState) -> None:
        if before is not None:
            before(block, state)
        recorder.see(block, state)

    pruned.watch = see
    try:
        yield recorder
    finally:
        pruned.watch = before
    recorder.close()


def positions_used(state: TokenState) -> Tensor:
    """Return (B,N) bool: positions of live slots. Fused tokens have no position, and a merged token's position is not its owner's."""
    unused = torch.zeros(state.live.shape[0], state.positions, dtype=torch.bool, device=state.live.device)
    return put(unused, state.index.where(state.live, -1), state.live)


def layers_per_token(usage: Tensor) -> Tensor:
    """Return how many blocks use each token, 0..L: usage (...,L,N) bool -> (...,N) long (SViT Fig. 4)."""
    return usage.sum(-2)


@dataclass(frozen=True)
class Reactivation:
    """Token counts (I,L), long, of each image and block (SViT Fig. 5a).

    pruned: not used by the block. again: of these, used by one later block at least. following: of these, used by the very next one.
    """

    pruned: Tensor
    again: Tensor
    following: Tensor

    @property
    def share(self) -> Tensor:
        """Return again / pruned, (I,L) float: the paper's reactivation ratio; NaN where nothing is pruned, else 0 at the last block."""
        return _ratio(self.again, self.pruned)

    @property
    def share_following(self) -> Tensor:
        """Return following / again, (I,L) float: how much of what comes back does so at once; NaN where nothing comes back."""
        return _ratio(self.following, self.again)


def reactivation(usage: Tensor) -> Reactivation:
    """Return how many pruned tokens come back, usage (I,L,N) bool. No token comes back after the last block."""
    none = torch.zeros_like(usage[:, :1])
    following = torch.cat([usage[:, 1:], none], 1)
    later = torch.cat([usage[:, 1:].flip(1).cummax(1).values.flip(1), none], 1) if usage.shape[1] > 1 else none
    counts = (~usage, ~usage & later, ~usage & following)
    return Reactivation(*(which.sum(-1) for which in counts))


def mean_map(usage: Tensor, grid: tuple[int, int], size: tuple[int, int] | None = None) -> Tensor:
    """Return the mean number of blocks that use each position (SViT Fig. 6).

    Args:
        usage: (I,L,N) bool of images with one grid.
        grid: their (H,W).
        size: (h,w) to resize to, bilinear; None keeps the grid. Resizing is linear, so maps of several grids may be averaged after it.

    Returns:
        (h,w) float in 0..L.
    """
    return resized(layers_per_token(usage).float().mean(0), grid, size)


def resized(values: Tensor, grid: tuple[int, int], size: tuple[int, int] | None) -> Tensor:
    """Return values (N,) of a grid (H,W) as a map (h,w) of another size, bilinear; None keeps the grid."""
    map_ = values.view(1, 1, *grid)
    return (map_ if size is None else F.interpolate(map_, size=size, mode="bilinear", align_corners=False))[0, 0]


def by_foreground(usage: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of foreground and of background tokens that each block uses (SViT Fig. 11).

    Args:
        usage: (I,L,N) bool. foreground: (I,N) bool.

    Returns:
        Two of (I,L) float in [0,1]; NaN for images without such tokens.
    """
    shares = []
    for where in (foreground, ~foreground):
        here = where.unsqueeze(1)
        shares.append(_ratio((usage & here).sum(-1), here.sum(-1)))
    return shares[0], shares[1]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), float("nan"))
