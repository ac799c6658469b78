"""Draws the tokens that the blocks of any pruned rows use: counts an image and block, tokens that come back, foreground, places."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, names_of, pruned_rows
from tokenprune.runs.reports import Sweep
from tokenprune.tasks.pictures import Predictions
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from tokenprune.report.figures.mean_usage import Mean
    from tokenprune.tasks.pictures import Picture

_SHARES = ("kept_share", "again_share", "foreground", "background")  # columns of the second table, each with a standard deviation
_MAPS = 4  # maps in a line of the figure


class Seen(NamedTuple):
    """Holds the usage of a row.

    Attributes:
        table: One line for each image and block (see `counted`).
        map: Its mean map.
    """

    table: "pd.DataFrame"
    map: "Mean"


@register("report", "usage")
@dataclass(frozen=True)
class Usage(FigureReport):
    """Writes which tokens the blocks of each pruned row use, image by image, and draws the means: for the rows of any sweep.

    Args:
        images: Number of validation pictures of each row, from the first; None for all.
        cover: Share of a token's patch that annotated masks must cover for it to be foreground; used if the data have masks.
    """

    images: int | None = 32
    cover: float = 0.5

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write usage.png, usage.csv (a line for each row, image and block), usage_blocks.csv (means) and usage_map.csv (mean maps).

        Raises:
            TokenPruneError: No row prunes.
        """
        from tokenprune.report.figures.shared.panels import cells_of, save

        rows = pruned_rows(sweep, 1, "usage: it shows pruned rows that are ok", "sweep over a method")
        numbers = None if self.images is None else range(self.images)
        seen = {
            name: self.counted(load(sweep, row).pictures(numbers, predict=False)) for name, row in zip(names_of(rows), rows, strict=True)
        }
        blocks = over_blocks(seen)
        places = {"row": "map_row", "column": "map_column"}  # `row` is a row of the sweep here
        cells = _named(seen, lambda found: cells_of(found.map.map, "mean_blocks").rename(columns=places))
        blocks.to_csv(sweep.folder / "usage_blocks.csv", index=False)
        cells.to_csv(sweep.folder / "usage_map.csv", index=False)
        for name, part in blocks.groupby("row", sort=False):
            console.say(in_words(name, part))
        figure = draw(blocks, cells, f"{sweep.name}: which tokens are used")
        return [*save(figure, sweep.folder, "usage", _named(seen, lambda found: found.table).round(5)), "usage_blocks.csv", "usage_map.csv"]

    def counted(self, pictures: "Iterable[Picture]") -> Seen:
        """Return the usage of pictures of one row.

        The columns of the table are picture; block; tokens (in the picture); kept (used by the block); pruned; again (pruned, and used by a
        later block); following (pruned, and used by the next one); foreground and background (the shares of these tokens that the block
        uses; NaN if the picture has none, or the data have no masks).
        """
        import pandas as pd

        from tokenprune.report.figures.mean_usage import average

        tables = []

        def counting() -> "Iterator[Picture]":  # one by one, because a split may be larger than memory
            for picture in pictures:
                tables.append(self._of(picture))
                yield picture
            if not tables:
                raise TokenPruneError("usage: the validation split has no pictures")

        mean = average(counting(), None)
        return Seen(pd.concat(tables, ignore_index=True), mean)

    def _of(self, picture: "Picture") -> "pd.DataFrame":
        import pandas as pd
        import torch

        from tokenprune.measure.usage import by_foreground, reactivation

        used = picture.used.flatten(1)[None]
        back, depth, tokens = reactivation(used), used.shape[1], used.shape[2]
        inside = self._foreground(picture)
        parts = [torch.full((1, depth), float("nan"))] * 2 if inside is None else by_foreground(used, inside.flatten()[None])
        columns = {"kept": used.sum(2), "pruned": back.pruned, "again": back.again, "following": back.following}
        columns |= dict(zip(("foreground", "background"), parts, strict=True))
        values = {name: value[0].tolist() for name, value in columns.items()}
        return pd.DataFrame({"picture": picture.number, "block": range(depth), "tokens": tokens, **values})

    def _foreground(self, picture: "Picture") -> "Tensor | None":
        truth = picture.truth
        return picture.covered(truth.masks, self.cover) if isinstance(truth, Predictions) else None


def over_blocks(seen: "dict[str, Seen]") -> "pd.DataFrame":
    """Return a line for each row and block: means over pictures, and standard deviations, of the shares that have a meaning there.

    The columns are row; block; kept_share (of all tokens); again_share (of pruned ones: SViT's reactivation ratio), foreground and
    background, each with _std; pictures.
    """

    def means(found: Seen) -> "pd.DataFrame":
        table = found.table.assign(
            kept_share=found.table["kept"] / found.table["tokens"],
            again_share=(found.table["again"] / found.table["pruned"]).where(found.table["pruned"] > 0),
        )
        grouped = table.groupby("block")
        result = grouped.size().to_frame("pictures")
        for name in _SHARES:
            result[name], result[f"{name}_std"] = grouped[name].mean(), grouped[name].std(ddof=0)
        return result.reset_index()

    return _named(seen, means)


def in_words(name: str, blocks: "pd.DataFrame") -> str:
    """Return a row's usage as a sentence."""
    back, parts = blocks["again_share"].mean(), blocks[["foreground", "background"]].mean()
    said = [f"a block uses {blocks['kept_share'].mean():.1%} of the tokens"]
    said += [] if back != back else [f"{back:.1%} of what a block prunes comes back"]
    said += [] if parts.isna().any() else [f"{parts['foreground']:.1%} of foreground and {parts['background']:.1%} of background are used"]
    return f"usage of {name}: {', '.join(said)}"


def draw(blocks: "pd.DataFrame", cells: "pd.DataFrame", title: str) -> "Figure":
    """Return the figure, from the tables usage_blocks.csv and usage_map.csv: one curve a row above, mean maps below."""
    from tokenprune.report.figures.shared.panels import SMALL, new_figure

    names = blocks["row"].nunique()
    lines, panels = -(-names // _MAPS), 2 if blocks["foreground"].isna().all() else 3
    figure = new_figure(12, 4.4 + 2.7 * lines, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=(4.2, 2.7 * lines))
    axes = upper.subplots(1, panels)
    _curves(axes[0], blocks, ("kept_share",), "share of the tokens that a block uses")
    _curves(axes[1], blocks, ("again_share",), "share of pruned tokens that a later block uses")
    if panels == 3:
        _curves(axes[2], blocks, ("foreground", "background"), "foreground (solid) and background (dashed) used")
    entries = axes[0].get_legend_handles_labels()
    upper.legend(*entries, loc="outside lower center", ncols=min(_MAPS, names), fontsize=SMALL, frameon=False)
    _maps(lower, cells, int(blocks["block"].max()) + 1)
    return figure


def _curves(axis: "Axes", blocks: "pd.DataFrame", columns: tuple[str, ...], label: str) -> None:
    from tokenprune.report.figures.shared.panels import NORMAL, looks, open_axis

    for (name, part), look in zip(blocks.groupby("row", sort=False), looks(), strict=False):
        for column, style in zip(columns, ("-", "--"), strict=False):
            mean, spread = part[column], part[f"{column}_std"]
            axis.plot(part["block"], mean, linestyle=style, markersize=4, label=name if style == "-" else None, **look)
            axis.fill_between(part["block"], mean - spread, mean + spread, color=look["color"], alpha=0.12, linewidth=0)
    open_axis(axis).set(ylim=(-0.02, 1.03))
    axis.set_xlabel(f"block (mean of {blocks['pictures'].max()} pictures, band: ± standard deviation)", fontsize=NORMAL - 1)
    axis.set_title(label, fontsize=NORMAL)


def _maps(figure: "Figure", cells: "pd.DataFrame", depth: int) -> None:
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, plain_axis

    rows = cells.groupby("row", sort=False)
    maps = {name: part.pivot(index="map_row", columns="map_column", values="mean_blocks") for name, part in rows}
    axes = figure.subplots(-(-len(maps) // _MAPS), min(_MAPS, len(maps)), squeeze=False)
    for axis in axes.flat:
        plain_axis(axis)
    for axis, (name, map_) in zip(axes.flat, maps.items(), strict=False):
        image = axis.imshow(map_.to_numpy(), cmap="viridis", vmin=cells["mean_blocks"].min(), vmax=depth)
        axis.set_title(f"{name}: {map_.to_numpy().mean():.1f} blocks a token", fontsize=SMALL)
    figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.85).set_label("mean blocks that use the token", fontsize=NORMAL - 1)


def _named(seen: "dict[str, Seen]", table: "Callable[[Seen], pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd

    parts = [table(found).assign(row=name) for name, found in seen.items()]
    whole = pd.concat(parts, ignore_index=True)
    return whole[["row", *(c for c in whole.columns if c != "row")]]
