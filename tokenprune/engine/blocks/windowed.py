"""Attention inside windows, in all blocks but some (ViTDet, EVA-02's detectors), for a model of any family.

M live tokens, in the raster order of the positions they came from, are laid out row by row in a square of sqrt(M) x sqrt(M) cells and cut
into windows of size x size cells, as a whole map is cut. After pruning a window is no longer a square of the picture. Cropr, whose
schedule keeps squares that the windows divide (section 4.3), does not say how kept tokens become a square, nor which rotary codes they
have in one: both are decided here. s is the side of a window in cells, W the number of windows.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock, BlockMacs, Projection, ProjectionView
from tokenprune.engine.blocks.rotary import rotary_rows
from tokenprune.engine.blocks.windows import Windows
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig

_CHUNK = 256  # queries whose logits are held at once by `received`


class WindowedBlock(BaseBlock):
    """The adapter of a block that attends inside windows; all else is the adapter's that it is made of."""

    windows: Windows  # never None here

    def __init__(self, own: BaseBlock, windows: Windows) -> None:
        super().__init__(own.block, own.number)
        self.parts = own.parts
        self.own, self.max_keys = own, windows.size**2
        self.windows = windows  # pyright: ignore[reportIncompatibleVariableOverride]

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values as the block makes them."""
        return self.own.qkv(x)

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch times its LayerScale, if there is one."""
        return self.own.scaled(x, branch)

    def codes(self, state: TokenState, picked: Tensor | None = None) -> Tensor | None:
        """Return the rotary rows of the sequence, those of the cells that tokens are laid into under `rope: folded`."""
        if state.rope is None or state.known.in_grid_order or self.windows.rope == "original":
            return rotary_rows(state, self.number, picked)
        table, s = state.rope[self.number], self.windows.size
        side, (H, W) = self.windows.side(state.tokens.shape[1]), state.grid
        first = table.reshape(-1, H, W, table.shape[-1])[:, :s, :s].flatten(1, 2)
        return tiled(first, s, (side, side)).unsqueeze(0)

    def runs_whole(self, state: TokenState) -> bool:
        """Return False: the block itself knows no windows."""
        return False

    def project(self, x: Tensor, rope: Tensor | None = None) -> Projection:
        """Return q, k, v of a sequence x (B,M,C), with the windows that they are seen in."""
        return replace(super().project(x, rope), windows=self.windows)

    def read(self, q: Tensor, p: Projection, bias: Tensor | None, policy: Tensor | None) -> Tensor:
        """Return what queries (B,h,M,d) read from the keys and values of their window."""
        inside = replace(p, k=self.windows.fold(p.k), v=self.windows.fold(p.v))
        return self.windows.unfold(super().read(self.windows.fold(q), inside, bias, policy), q.shape[2])

    def macs(self, attended: float, rows: float, fed: float, products: float, valued: float | None = None) -> BlockMacs:
        """Return MACs; each query has the s*s keys of its window. No decision is taken ahead of values here, so `valued` is None."""
        return super().macs(attended, rows, fed, rows * self.windows.size**2)


def windowed(block: BaseBlock, windows: Windows | None) -> BaseBlock:
    """Return the adapter of a block under the windows of its model, the block itself where it sees all tokens."""
    return block if windows is None or block.number in windows.global_blocks else WindowedBlock(block, windows)


def received(p: ProjectionView, windows: Windows, mean: bool = False) -> Tensor:
    """Return the attention that each token receives in its window, averaged over its queries, (B,h,M), a few windows at a time.

    mean: of the window's mean query, in the place of the mean of all.
    """
    M = p.q.shape[2]
    q, k, found = windows.fold(p.q), windows.fold(p.k), []
    q = q.mean(2, keepdim=True) if mean else q
    for some, keys in zip(*(t.split(max(1, _CHUNK // windows.size**2)) for t in (q, k)), strict=True):
        found.append(((some * p.scale) @ keys.transpose(-2, -1)).softmax(-1).mean(2))
    return windows.unfold(torch.cat(found).unsqueeze(-1), M).squeeze(-1)


def tables(windows: Windows, rope: Tensor | None, maker: Any, grid: tuple[int, int], depth: int) -> tuple[Tensor, ...] | None:
    """Return a rotary table (1 or h,N,2d) for each block: of the whole grid, or of a window, repeated in every window.

    Args:
        rope: the table of the whole grid, (N,2d) or (depth,h,N,2d), scaled as timm scales it to the grid of pre-training; or None.
        maker: timm's rotary module of the model; it scales the window's positions 0 ... s-1 to that grid, too.

    Raises:
        InvalidConfig: a grid that the windows do not tile, a module that makes tables of one shape only.
    """
    if grid[0] != grid[1] or grid[0] % windows.size:
        raise InvalidConfig(
            f"images have a grid of {grid[0]} x {grid[1]} patches, which windows of {windows.size} do not tile in a square; allowed: sides"
            f" equal and multiples of {windows.size}: pad the images, or set backbone.windows.size"
        )
    if rope is None:
        return None
    own = maker.get_embed(shape=(windows.size, windows.size))
    if own.shape[-2] != windows.size**2:
        raise InvalidConfig("windows need rotary codes of any grid: build the timm model with dynamic_img_size=True")
    near = tiled(own, windows.size, grid)
    return tuple(_of_block(rope if n in windows.global_blocks else near, n) for n in range(depth))


def tiled(table: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """Return the table (...,s*s,c) of a window repeated over a grid (H,W) in raster order, (...,H*W,c)."""
    square = table.unflatten(-2, (size, size))
    times = (*[1] * (square.dim() - 3), grid[0] // size, grid[1] // size, 1)
    return square.repeat(times).flatten(-3, -2)


def _of_block(table: Tensor, number: int) -> Tensor:
    return table.unsqueeze(0) if table.dim() == 2 else table[number]
