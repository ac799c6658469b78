"""How a square of tokens is cut into windows; see `windowed` for the blocks that attend inside them."""

import math
from dataclasses import dataclass

from torch import Tensor

from tokenprune.errors import InvalidSchedule

ROPES = ("original", "folded")


@dataclass(frozen=True)
class Windows:
    """Inside which windows the blocks of a model attend.

    size: s, in cells. global_blocks: 0-based numbers of the blocks that see all tokens. rope: which row of the window's rotary table a
    token has once others are pruned: that of its own cell in the window it came from (`original`), of the cell it is laid into (`folded`).
    """

    size: int = 16
    global_blocks: tuple[int, ...] = ()
    rope: str = "original"

    def fits(self, tokens: int) -> bool:
        """Tell whether so many tokens fill a square of whole windows."""
        side = math.isqrt(tokens)
        return tokens > 0 and side * side == tokens and side % self.size == 0

    def side(self, tokens: int) -> int:
        """Return the side of the square that so many tokens fill; raises InvalidSchedule where there is none of whole windows."""
        if not self.fits(tokens):
            raise InvalidSchedule(no_square(tokens, self.size))
        return math.isqrt(tokens)

    def fold(self, x: Tensor) -> Tensor:
        """Return x (B,h,M,d) by windows, (B*W,h,s*s,d).

        Raises:
            InvalidSchedule: tokens that are no square of whole windows.
        """
        B, h, M, d = x.shape
        n, s = self.side(M) // self.size, self.size
        return x.reshape(B, h, n, s, n, s, d).permute(0, 2, 4, 1, 3, 5, 6).reshape(B * n * n, h, s * s, d)

    def unfold(self, x: Tensor, tokens: int) -> Tensor:
        """Return windows x (B*W,h,s*s,d) as the M `tokens` they are of, (B,h,M,d): the inverse of `fold`."""
        n, s, (_, h, _, d) = self.side(tokens) // self.size, self.size, x.shape
        # behind the transposition lies what merging heads wants, so that nothing is copied twice
        return x.reshape(-1, n, n, h, s, s, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, tokens, h, d).transpose(1, 2)


def no_square(tokens: int, size: int) -> str:
    """Return why so many tokens do not fit windows."""
    near = [(k * size) ** 2 for k in range(1, math.isqrt(tokens) // size + 2)][-2:]
    allowed = " or ".join(map(str, near))
    return (
        f"{tokens} tokens are no square of whole windows of {size} x {size}; allowed near it: {allowed}. Use schedule=window_squares, or"
        " backbone.windows.global_blocks for the blocks that see them"
    )


def window_problems(windows: Windows, grid: tuple[int, int], depth: int, prefix: int) -> list[str]:
    """Return why a model of `depth` blocks, a grid (H,W) and P = `prefix` tokens in front of it cannot have windows; [] if it can."""
    unknown = sorted({block for block in windows.global_blocks if not 0 <= block < depth})
    cells = f"{grid[0]} x {grid[1]}"
    bad = [
        (windows.size < 1, f"backbone.windows.size is {windows.size}; allowed: 1 and more cells"),
        (grid[0] != grid[1], f"backbone.windows: the grid is {cells}; allowed: square images"),
        (
            windows.size > 0 and max(grid[0] % windows.size, grid[1] % windows.size),
            f"backbone.windows.size is {windows.size}, which does not divide the grid of {cells}; allowed: divisors of {grid[0]}",
        ),
        (
            unknown,
            f"backbone.windows.global_blocks has {', '.join(map(str, unknown))}; allowed: 0 to {depth - 1}, the blocks of the model",
        ),
        (
            prefix,
            f"backbone.windows: the model has {prefix} prefix token(s), which stand in no window; set backbone.class_token=false, or take a"
            " model without registers",
        ),
        (windows.rope not in ROPES, f"backbone.windows.rope is {windows.rope!r}; allowed: {', '.join(ROPES)}"),
    ]
    return [text for wrong, text in bad if wrong]
