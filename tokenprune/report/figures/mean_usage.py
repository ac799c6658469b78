"""Draws SViT Figure 6: how many blocks use a token, by its place in the picture, on average."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from torch import Tensor

    from tokenprune.tasks.pictures import Picture

_PAPER_SIZE = (50, 80)


class Mean(NamedTuple):
    """Holds a mean map.

    Attributes:
        map: The map, (h,w).
        depth: Number of blocks.
        pictures: Number of pictures.
        resized: Whether the map was resized.
    """

    map: "Tensor"
    depth: int
    pictures: int
    resized: bool

    @property
    def about(self) -> str:
        """Return the map's size in words."""
        height, width = self.map.shape
        return f"{'resized to' if self.resized else 'token grid'} {height} x {width}"


@register("report", "mean_usage")
@dataclass(frozen=True)
class MeanUsage(FigureReport):
    """Draws how many blocks use a token on average over the validation split, by position (SViT Fig. 6).

    Args:
        method: Method whose first finished row is shown.
        images: Number of validation pictures that are averaged over, from the first; None for all.
        size: Rows and columns that each picture's map is resized to. None keeps the token grid if all pictures share one, and takes the
            paper's 50 x 80 if they differ.
    """

    method: str = "svit"
    images: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: No map can have them.
        """
        super().__post_init__()
        if self.size is not None and min(self.size) < 1:
            raise InvalidConfig(f"reports.mean_usage.size is {self.size}; allowed: two numbers from 1 on, e.g. [50, 80]")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write mean_usage.png and mean_usage.csv (map, row, column, mean_blocks)."""
        from tokenprune.report.figures.shared.panels import cells_of, save

        row = row_of(sweep, self.method)
        mean = average(load(sweep, row).pictures(None if self.images is None else range(self.images), predict=False), self.size)
        figure = draw(mean, f"How many blocks use a token, by position\n{name_of(row)}")
        cells = cells_of(mean.map, "mean_blocks")
        cells.insert(0, "map", mean.about)
        return save(figure, sweep.folder, "mean_usage", cells)


def average(pictures: "Iterable[Picture]", size: tuple[int, int] | None) -> Mean:
    """Return the mean map of pictures, each resized before averaging if `size` is given or their grids differ."""
    from tokenprune.measure.usage import layers_per_token, resized

    sums, seen, depth = {}, Counter(), 0
    for picture in pictures:
        counts, depth = layers_per_token(picture.used.flatten(1)).double(), picture.used.shape[0]
        sums[picture.grid] = sums.get(picture.grid, 0) + counts
        seen[picture.grid] += 1
    if size is None and len(sums) > 1:
        size = _PAPER_SIZE
    total = sum(resized(counts, grid, size) for grid, counts in sums.items())  # resizing is linear, so it may follow the sums
    return Mean(total / seen.total(), depth, seen.total(), size is not None and set(sums) != {size})


def draw(mean: Mean, title: str) -> "Figure":
    """Return the figure: the map with its colour bar."""
    from tokenprune.report.figures.shared.panels import NORMAL, new_figure

    height, width = mean.map.shape
    figure = new_figure(6.5, 1.2 + 4.4 * max(0.5, min(1.1, height / width)), title)
    axis = figure.subplots()
    image = axis.imshow(mean.map.numpy(), cmap="viridis")
    axis.set_xlabel(f"column of the map ({mean.about}, mean of {mean.pictures} validation pictures)", fontsize=NORMAL)
    axis.set_ylabel("row of the map", fontsize=NORMAL)
    figure.colorbar(image, shrink=0.9).set_label(f"mean number of blocks that use the token, of {mean.depth}", fontsize=NORMAL)
    return figure
