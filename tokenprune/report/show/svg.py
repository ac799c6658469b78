"""Writes cells of a grid as paths of an SVG picture, in pixels of the picture."""

from collections.abc import Iterator

from torch import Tensor


def cells(mask: Tensor, patch: int) -> str:
    """Return the path of cells (H,W) bool: one rectangle a run of cells in a row."""
    return "".join(f"M{start * patch} {row * patch}h{length * patch}v{patch}h-{length * patch}z" for row, start, length in runs(mask))


def runs(mask: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield (row, first column, length) of each run of cells (H,W) bool."""
    for row, line in enumerate(mask.tolist()):
        start = None
        for column, here in enumerate([*line, False]):
            if here and start is None:
                start = column
            elif not here and start is not None:
                yield row, start, column - start
                start = None


def outline(mask: Tensor, patch: int, inset: float) -> str:
    """Return the path of the border of cells (H,W) bool, drawn `inset` pixels inside, so that neighbouring groups do not hide it."""
    return "".join(f"M{x1:g} {y1:g}L{x2:g} {y2:g}" for x1, y1, x2, y2 in border(mask, patch, inset))


def border(mask: Tensor, patch: int, inset: float) -> Iterator[tuple[float, float, float, float]]:
    """Yield the lines (x1, y1, x2, y2) of the border of cells: on each side of a cell whose neighbour is none of them."""
    rows, columns = mask.shape
    inside = mask.tolist()

    def has(row: int, column: int) -> bool:
        return 0 <= row < rows and 0 <= column < columns and inside[row][column]

    for row, column in mask.nonzero().tolist():
        left, right, up, down = has(row, column - 1), has(row, column + 1), has(row - 1, column), has(row + 1, column)
        x1, x2 = column * patch + inset * (not left), (column + 1) * patch - inset * (not right)
        y1, y2 = row * patch + inset * (not up), (row + 1) * patch - inset * (not down)
        if not up:
            yield x1, y1, x2, y1
        if not down:
            yield x1, y2, x2, y2
        if not left:
            yield x1, y1, x1, y2
        if not right:
            yield x2, y1, x2, y2
