"""Records which tokens each block uses while a model runs, and computes the statistics of SViT's Figures 4, 5, 6 and 11 on such records.

A position is *used* by a block if its own token, and not a merged or fused stand-in, enters the block's attention. Shapes: I images,
L blocks, N = H*W positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.engine.execution import BlockUsage
from tokenprune.engine.indexing import put
from tokenprune.engine.model import pruned_of
from tokenprune.engine.state import TokenState
from tokenprune.errors import TokenPruneError


class Used(NamedTuple):
    """Holds the usage of one image.

    Attributes:
        blocks: Positions used by each block, (L,N) bool on the CPU.
        grid: The grid (H,W) of the N positions, in raster order.
        owners: The position whose token speaks for each position in each block, (L,N) int32: its own where it is used, another one's where
            it was merged, -1 where none does. None if it was not asked for.
        tokens: Patch tokens in the attention of each block, (L,) long; fused and mixed tokens, which have no position, included.
    """

    blocks: Tensor
    grid: tuple[int, int]
    owners: Tensor | None = None
    tokens: Tensor | None = None


class Recorder:
    """Collects the usage that `record` observes: `images` holds one `Used` an image, in the order in which they ran.

    Args:
        depth: Number of blocks L.
        owners: Whether to note who speaks for each position, and how many tokens there are.
    """

    def __init__(self, depth: int, owners: bool = False) -> None:
        self.depth, self.owners = depth, owners
        self.images: list[Used] = []
        self._pass: list[tuple[Tensor, ...]] = []  # (B,N) of each block so far; with `owners` also (B,N) and (B,)

    def see(self, block: int, state: TokenState) -> None:
        """Note the positions that enter a block's attention. The engine calls this as its watcher.

        Raises:
            TokenPruneError: A block was left out, so the usage of these images would be incomplete.
        """
        if block != len(self._pass):
            self.close()
            raise TokenPruneError(f"usage: block {block} ran without the blocks before it; record passes from block 0 to {self.depth - 1}")
        used = positions_used(state)
        self._pass.append((used, owners_of(state), state.counts()) if self.owners else (used,))
        if block == self.depth - 1:
            facts, self._pass = [torch.stack(parts, 1).cpu() for parts in zip(*self._pass, strict=True)], []
            self.images += [Used(image[0], state.grid, *image[1:]) for image in zip(*facts, strict=True)]

    def close(self) -> None:
        """End the recording.

        Raises:
            TokenPruneError: The last pass did not reach the last block.
        """
        ran, self._pass = len(self._pass), []
        if ran:
            raise TokenPruneError(f"usage: a pass ended after block {ran - 1}; record passes that run every block, 0 to {self.depth - 1}")


@contextmanager
def record(model: nn.Module, owners: bool = False) -> Iterator[Recorder]:
    """Record the positions used by each block of every image that `model` sees inside the `with` block.

    Args:
        model: A PrunedViT or any module around one (a dense map, a detector). Batches, image sizes and executions may vary.
        owners: Whether to record `Used.owners` and `Used.tokens`, too.

    Raises:
        TokenPruneError: The model has no PrunedViT, or a pass did not run every block in order.

    Example:
        with record(detector) as seen:
            detector(inputs)
        layers_per_token(seen.images[0].blocks)
    """
    pruned = pruned_of(model)
    if pruned is None:
        raise TokenPruneError(f"usage: {type(model).__name__} has no PrunedViT inside; make one with tokenprune.prune")
    recorder, before = Recorder(pruned.depth, owners), pruned.watch

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
    """Return the positions of live slots, (B,N) bool.

    Fused tokens have no position, and a merged token's position is not that of the token it went into.
    """
    unused = torch.zeros(state.live.shape[0], state.positions, dtype=torch.bool, device=state.live.device)
    return put(unused, state.index.where(state.live, -1), state.live)


def kept_shares(usage: Sequence[BlockUsage], prefix: int, positions: int) -> list[float]:
    """Return the share of N = `positions` that enters each block's attention, averaged over a batch with P = `prefix` other tokens."""
    return [float((used.attended.double().mean() - prefix) / positions) for used in usage]


def owners_of(state: TokenState) -> Tensor:
    """Return the position whose live token speaks for each position, (B,N) int32; -1 where none does."""
    B, N = state.live.shape[0], state.positions
    itself = torch.arange(N, device=state.live.device).expand(B, N)
    return (itself if state.owner is None else state.owner).where(state.present(), -1).to(torch.int32)


def layers_per_token(usage: Tensor) -> Tensor:
    """Return the number of blocks that use each token, 0..L: usage (...,L,N) bool -> (...,N) long (SViT Fig. 4)."""
    return usage.sum(-2)


@dataclass(frozen=True)
class Reactivation:
    """Holds token counts (I,L), long, of each image and block (SViT Fig. 5a).

    Attributes:
        pruned: Tokens that the block does not use.
        again: Of these, the tokens that at least one later block uses.
        following: Of these, the tokens that the very next block uses.
    """

    pruned: Tensor
    again: Tensor
    following: Tensor

    @property
    def share(self) -> Tensor:
        """Return again / pruned, (I,L) float: the paper's reactivation ratio.

        It is NaN where nothing is pruned, and otherwise 0 at the last block.
        """
        return _ratio(self.again, self.pruned)

    @property
    def share_following(self) -> Tensor:
        """Return following / again, (I,L) float: the share of returning tokens that return at once. It is NaN where nothing returns."""
        return _ratio(self.following, self.again)


def reactivation(usage: Tensor) -> Reactivation:
    """Count the pruned tokens that come back, for usage (I,L,N) bool. No token comes back after the last block."""
    none = torch.zeros_like(usage[:, :1])
    following = torch.cat([usage[:, 1:], none], 1)
    later = torch.cat([usage[:, 1:].flip(1).cummax(1).values.flip(1), none], 1) if usage.shape[1] > 1 else none
    counts = (~usage, ~usage & later, ~usage & following)
    return Reactivation(*(which.sum(-1) for which in counts))


def mean_map(usage: Tensor, grid: tuple[int, int], size: tuple[int, int] | None = None) -> Tensor:
    """Return the mean number of blocks that use each position (SViT Fig. 6).

    Args:
        usage: Usage of images with one grid, (I,L,N) bool.
        grid: The grid (H,W) of these images.
        size: The size (h,w) to resize to, bilinear; None keeps the grid. Resizing is linear, so maps of several grids may be averaged
            afterwards.

    Returns:
        A map (h,w) float with values in 0..L.
    """
    return resized(layers_per_token(usage).float().mean(0), grid, size)


def resized(values: Tensor, grid: tuple[int, int], size: tuple[int, int] | None) -> Tensor:
    """Return values (N,) of a grid (H,W) as a map (h,w) of another size, bilinear. A size of None keeps the grid."""
    map_ = values.view(1, 1, *grid)
    return (map_ if size is None else F.interpolate(map_, size=size, mode="bilinear", align_corners=False))[0, 0]


def by_foreground(usage: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of foreground and of background tokens that each block uses (SViT Fig. 11).

    Args:
        usage: Usage, (I,L,N) bool.
        foreground: Positions on the foreground, (I,N) bool.

    Returns:
        Two tensors (I,L), float in [0,1]; NaN for images without such tokens.
    """
    shares = []
    for where in (foreground, ~foreground):
        here = where.unsqueeze(1)
        shares.append(_ratio((usage & here).sum(-1), here.sum(-1)))
    return shares[0], shares[1]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), float("nan"))
