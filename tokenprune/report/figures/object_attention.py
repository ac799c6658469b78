"""Draws how much of the class token's attention lies on objects, block by block, over what lies there by chance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, dense_rows, load, names_of
from tokenprune.runs.reports import Sweep
from tokenprune.tasks.pictures import Predictions
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tokenprune.runs.load import Loaded

_RESAMPLES = 1000


@register("report", "object_attention")
@dataclass(frozen=True)
class ObjectAttention(FigureReport):
    """Draws the share of the class token's patch attention that lies on objects, over their share of the cells, for rows that drop nothing.

    At 1 the attention lies where chance would put it. A selector that follows the class token keeps objects where it is above 1. Objects
    are cells that annotated masks cover. Pictures without one are left out.

    Args:
        images: Number of validation pictures, from the first; None for all.
        cover: Share of a cell's pixels that the masks must cover.
    """

    images: int | None = 100
    cover: float = 0.5

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write object_attention.png and object_attention.csv (a line for each row and block).

        Raises:
            TokenPruneError: No finished row drops nothing, or its data have no masks.
        """
        import pandas as pd

        from tokenprune.report.figures.shared.panels import save

        rows = dense_rows(sweep, "object_attention: it shows rows that drop nothing and are ok", "sweep over method=dense too")
        parts = [self.measured(load(sweep, row)).assign(row=name) for name, row in zip(names_of(rows), rows, strict=True)]
        table = pd.concat(parts, ignore_index=True)[["row", "block", "pictures", "objects", "attention", "over_chance", "over_chance_se"]]
        for name, part in table.groupby("row", sort=False):
            console.say(in_words(str(name), part))
        return save(draw(table, f"{sweep.name}: attention of the class token on objects"), sweep.folder, "object_attention", table.round(5))

    def measured(self, loaded: "Loaded") -> "pd.DataFrame":
        """Return a line for each block: the objects' mean share of cells and of attention, the second over the first, and its error.

        The error is the standard deviation of that ratio over resamples of the pictures (bootstrap).

        Raises:
            TokenPruneError: The data have no masks, or no picture has an object.
        """
        import pandas as pd
        import torch

        from tokenprune.measure.attention import attention_of

        with torch.no_grad(), attention_of(loaded.model) as seen:
            pictures = list(loaded.pictures(None if self.images is None else range(self.images), predict=False))
        shares, chances = [], []
        for picture, image in zip(pictures, seen, strict=True):
            if not isinstance(picture.truth, Predictions):
                raise TokenPruneError("object_attention: the data have no masks of objects; use task=detection")
            inside = picture.covered(picture.truth.masks, self.cover)
            if inside.any():
                attention = image.cropped(*picture.grid).flatten(1)
                shares.append(attention[:, inside.flatten()].sum(1) / attention.sum(1))
                chances.append(inside.float().mean())
        if not shares:
            raise TokenPruneError(f"object_attention: none of {len(pictures)} pictures has an object that covers {self.cover:g} of a cell")
        share, chance = torch.stack(shares), torch.stack(chances)
        drawn = torch.randint(len(share), (_RESAMPLES, len(share)), generator=torch.Generator().manual_seed(0))
        resampled = share[drawn].mean(1) / chance[drawn].mean(1, keepdim=True)
        columns = {"attention": share.mean(0), "over_chance": share.mean(0) / chance.mean(), "over_chance_se": resampled.std(0)}
        numbers = {name: values.tolist() for name, values in columns.items()}
        return pd.DataFrame({"block": range(share.shape[1]), "pictures": len(shares), "objects": float(chance.mean()), **numbers})


def in_words(name: str, part: "pd.DataFrame") -> str:
    """Return the numbers of a row as a sentence."""
    low, high = part["over_chance"].min(), part["over_chance"].max()
    return f"{name}: objects get {low:.1f} to {high:.1f} times the attention of chance, by block; they cover {part['objects'].iloc[0]:.0%}"


def draw(table: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure: a curve for each row with a band of one standard error over pictures, and a line at chance."""
    from tokenprune.report.figures.shared.panels import NORMAL, looks, new_figure, open_axis

    figure = new_figure(7, 4.2, title)
    axis = open_axis(figure.subplots())
    for (name, part), look in zip(table.groupby("row", sort=False), looks(), strict=False):
        mean, spread = part["over_chance"], part["over_chance_se"]
        axis.fill_between(part["block"], (mean - spread).clip(lower=0), mean + spread, color=look["color"], alpha=0.18, linewidth=0)
        axis.plot(part["block"], mean, **look, markersize=5, label=str(name))
    axis.axhline(1, color="0.5", linewidth=1, linestyle="--")
    axis.set(xticks=sorted(table["block"].unique()), ylim=(0, None))
    axis.set_xlabel("block", fontsize=NORMAL)
    axis.set_ylabel("attention on objects / their share of cells", fontsize=NORMAL)
    axis.set_title(
        f"mean over {table['pictures'].iloc[0]} validation pictures, band: ± standard error over them; dashed: chance", fontsize=NORMAL
    )
    axis.legend(fontsize=NORMAL)
    return figure
