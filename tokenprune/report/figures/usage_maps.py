"""Draws SViT Figures 1 and 4: how many blocks use each token of a picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of, shown
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from tokenprune.tasks.pictures import Picture

_PAIRS = 4  # pairs in a line of the grid


@register("report", "usage_maps")
@dataclass(frozen=True)
class UsageMaps(FigureReport):
    """Draws validation pictures beside heat maps of how many blocks use each token (SViT Fig. 4).

    Args:
        method: Method whose first finished row is shown.
        pictures: Indices in the validation split; those beyond its end are left out.
        score: Boxes predicted with at least this score are drawn on the pictures.
    """

    method: str = "svit"
    pictures: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    score: float = 0.5

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write usage_maps.png and usage_maps.csv (picture, row, column, blocks)."""
        from tokenprune.measure.usage import layers_per_token
        from tokenprune.report.figures.shared.panels import cells_table, save

        row = row_of(sweep, self.method)
        pictures = shown(load(sweep, row), self.pictures)
        maps = [layers_per_token(p.used.flatten(1)).view(p.grid) for p in pictures]
        boxes = "" if pictures[0].predictions is None else f" (boxes: found with score {self.score:g} or more)"
        title = f"How many blocks use each token{boxes}\n{name_of(row)}"
        figure = draw(pictures, maps, title, self.score)
        return save(figure, sweep.folder, "usage_maps", cells_table(pictures, maps, "blocks"))


def draw(pictures: "list[Picture]", maps: "list[Tensor]", title: str, score: float | None = None) -> "Figure":
    """Return the figure: each picture, with boxes of at least `score` on it, beside its map (H,W) of numbers of blocks."""
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, draw_map, draw_picture, new_figure, plain_axis, tallest

    depth, least = pictures[0].used.shape[0], min(int(m.min()) for m in maps)
    limits = (min(least, depth - 1), depth)
    pairs = min(_PAIRS, len(pictures))
    lines = -(-len(pictures) // pairs)
    figure = new_figure(3.2 * pairs + 1.2, (1.55 * tallest(pictures) + 0.25) * lines + 0.9, title)
    axes = figure.subplots(lines, 2 * pairs, squeeze=False).reshape(-1, 2)
    for axis in axes.flat:
        plain_axis(axis)
    for (left, right), picture, map_ in zip(axes, pictures, maps, strict=False):
        draw_picture(left, picture, score)
        image = draw_map(right, picture, map_, limits)
        left.set_title(f"picture {picture.number}", fontsize=SMALL)
        right.set_title(f"{map_.float().mean():.1f} blocks a token", fontsize=SMALL)
    bar = figure.colorbar(image, ax=axes[:, 1].tolist(), shrink=0.8, ticks=range(limits[0], depth + 1))
    bar.set_label(f"blocks that use the token, of {depth}\n(colours from {limits[0]}, the fewest here)", fontsize=NORMAL)
    return figure
