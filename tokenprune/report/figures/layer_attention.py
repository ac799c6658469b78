"""Draws SViT Figure 9 (the supplement's Figure 2): the class token's attention in each block, dense and pruned, on the same pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of, shown
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec
    from torch import Tensor

    from tokenprune.runs.load import Loaded
    from tokenprune.tasks.pictures import Picture

_BLOCKS = 6  # panels in a line
_FAINT = 0.02  # cells below this share of the brightest one are not shown


class Seen(NamedTuple):
    """Holds a picture and the attention to its cells.

    Attributes:
        picture: The picture.
        attention: The class token's attention to the cells in each block, (L,H,W); NaN where a block has no token.
    """

    picture: "Picture"
    attention: "Tensor"


@register("report", "layer_attention")
@dataclass(frozen=True)
class LayerAttention(FigureReport):
    """Draws the class token's attention, mean over heads, block by block for two or more methods on the same pictures (SViT Fig. 9).

    Args:
        methods: Methods whose first finished rows are shown; the others are compared with the first.
        pictures: Indices in the validation split; those beyond its end are left out.
    """

    methods: tuple[str, ...] = ("dense", "svit")
    pictures: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: There is nothing to compare.
        """
        super().__post_init__()
        if len(self.methods) < 2:
            raise InvalidConfig(f"reports.layer_attention.methods is {list(self.methods)}; allowed: two or more, e.g. [dense, svit]")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write layer_attention.png and layer_attention.csv (picture, method, block, kept_share, attention_covered)."""
        from tokenprune.report.figures.shared.panels import save

        rows = [row_of(sweep, method) for method in self.methods]
        seen = {row["label"]: attended(load(sweep, row), self.pictures) for row in rows}
        numbers = covered(seen)
        console.say(words(numbers))
        hatched = "hatched: tokens that do not take part in the block"
        title = f"Attention of the class token, mean over heads; bright: much, each panel by its own maximum; {hatched}\n"
        return save(draw(seen, title + "; ".join(map(name_of, rows))), sweep.folder, "layer_attention", numbers, dpi=110)


def attended(loaded: "Loaded", numbers: Sequence[int]) -> list[Seen]:
    """Return pictures with the class token's attention of a row's model."""
    from tokenprune.measure.attention import attention_of

    with torch.no_grad(), attention_of(loaded.model) as images:
        pictures = shown(loaded, numbers, predict=False)
    return [Seen(picture, image.cropped(*picture.grid)) for picture, image in zip(pictures, images, strict=True)]


def covered(seen: Mapping[str, Sequence[Seen]]) -> "pd.DataFrame":
    """Return a row for each picture, method and block: its share of tokens, and the share of the first method's attention on these."""
    import pandas as pd

    from tokenprune.measure.attention import coverage

    first, rows = next(iter(seen.values())), []
    for label, series in seen.items():
        for reference, (picture, attention) in zip(first, series, strict=True):
            there = ~attention.flatten(1).isnan()
            shares = coverage(reference.attention.flatten(1).nan_to_num(), there)
            for block, (used, share) in enumerate(zip(there, shares, strict=True)):
                rows.append((picture.number, label, block, float(used.float().mean()), float(share)))
    return pd.DataFrame(rows, columns=["picture", "method", "block", "kept_share", "attention_covered"])


def words(numbers: "pd.DataFrame") -> str:
    """Return a sentence on how much of the first method's attention the tokens of the others hold, over blocks that drop some."""
    reference, *others = numbers["method"].unique()
    pruning = numbers[numbers["kept_share"] < 1].groupby("method")[["kept_share", "attention_covered"]].mean()
    said = [
        f"the {pruning.loc[label, 'kept_share']:.0%} of tokens that {label} uses hold {pruning.loc[label, 'attention_covered']:.0%} of it"
        for label in others
        if label in pruning.index
    ]
    return f"attention of {reference} in blocks that drop tokens: " + ("; ".join(said) or "no block drops a token")


def draw(seen: Mapping[str, Sequence[Seen]], title: str) -> "Figure":
    """Return the figure: a picture and, beside it, lines of panels for each method, one panel a block."""
    from tokenprune.report.figures.shared.panels import NORMAL, draw_picture, new_figure, tallest

    series = list(seen.values())
    depth, count = len(series[0][0].attention), len(series[0])
    lines = -(-depth // _BLOCKS)
    height = (1.5 * tallest(s.picture for s in series[0]) + 0.15) * lines * len(series) * count
    figure = new_figure(1.5 * (_BLOCKS + 2) + 0.6, height + 0.9, title)
    grid = figure.add_gridspec(count, 2, width_ratios=(2, _BLOCKS))
    for place in range(count):
        whole = figure.add_subplot(grid[place, 0])
        draw_picture(whole, series[0][place].picture)
        whole.set_title(f"picture {series[0][place].picture.number}", fontsize=NORMAL)
        _panels(figure, grid[place, 1], {label: pictures[place] for label, pictures in seen.items()}, lines)
    return figure


def _panels(figure: "Figure", place: "SubplotSpec", methods: Mapping[str, Seen], lines: int) -> None:
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, plain_axis

    axes = place.subgridspec(lines * len(methods), _BLOCKS).subplots(squeeze=False)
    for axis in axes.flat:
        plain_axis(axis)
    for number, (label, one) in enumerate(methods.items()):
        mine = axes[number * lines : (number + 1) * lines]
        for block, (axis, attention) in enumerate(zip(mine.flat, one.attention, strict=False)):
            overlay(axis, one.picture, attention)
            axis.set_title(f"block {block}", fontsize=SMALL, pad=2)
        for line in mine:
            line[0].set_ylabel(label, fontsize=NORMAL)


def overlay(axis: "Axes", picture: "Picture", attention: "Tensor") -> None:
    """Show attention (H,W) over a grey picture, transparent where it is low. Cells that are NaN are grey and hatched."""
    import numpy as np

    from tokenprune.report.figures.shared.panels import BLACK, GREY, framed, over

    grey = picture.pixels.mean(-1) / 255 * 0.6
    heat = over(picture, attention.numpy())
    missing, top = np.isnan(heat), max(float(np.nanmax(heat)), 1e-12)
    relative = np.nan_to_num(heat / top)
    framed(axis).imshow(grey, cmap="gray", vmin=0, vmax=1)
    axis.imshow(relative, cmap="inferno", vmin=0, vmax=1, alpha=np.where(missing | (relative < _FAINT), 0.0, 0.35 + 0.6 * relative))
    if missing.any():
        axis.imshow(np.ones_like(heat), cmap="gray", vmin=0, vmax=1.4, alpha=np.where(missing, 0.75, 0.0))
        axis.contourf(missing.astype(float), levels=[0.5, 1.5], colors="none", hatches=["//////"])
        axis.contour(missing.astype(float), levels=[0.5], colors=[GREY if missing.mean() > 0.5 else BLACK], linewidths=0.3)
