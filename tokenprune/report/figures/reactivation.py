"""Draws SViT Figure 5: how many pruned tokens come back later, and where they lie."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of, shown
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from tokenprune.tasks.pictures import Picture

_AGAIN, _GONE, _SOON, _EDGE = "#56b4e9", "#ffffff", "#0072b2", "#222222"  # cyan and white as in the paper
_BAR = 0.75
_FEW = 0.01  # share of all tokens; a ratio of fewer tokens says little


class _Counts(NamedTuple):
    """Holds the counts of tokens that come back.

    Attributes:
        table: Means over pictures, one row a block.
        pictures: Number of pictures.
        tokens: Their pruned tokens, those used again, and those used again at once.
    """

    table: "pd.DataFrame"
    pictures: int
    tokens: tuple[int, int, int]


@register("report", "reactivation")
@dataclass(frozen=True)
class ReactivationFigure(FigureReport):
    """Draws the share of pruned tokens that a later block uses again, and maps of one picture (SViT Fig. 5).

    Args:
        method: Method whose first finished row is shown.
        images: Number of validation pictures that are averaged over, from the first; None for all.
        picture: Index of the picture of the maps.
        blocks: Blocks of the maps; None for four in the middle of those that can reactivate.
    """

    method: str = "svit"
    images: int | None = None
    picture: int = 0
    blocks: tuple[int, ...] | None = None

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write reactivation.png, reactivation.csv (a row a block) and reactivation_picture.csv (a row a cell)."""
        from tokenprune.report.figures.shared.panels import save

        row = row_of(sweep, self.method)
        loaded = load(sweep, row)
        numbers = None if self.images is None else range(self.images)
        counts = count(loaded.pictures(numbers, predict=False))
        picture = shown(loaded, [self.picture], predict=False)[0]
        blocks = middle(counts.table) if self.blocks is None else self.blocks
        depth = picture.used.shape[0]
        if not blocks or not all(0 <= block < depth for block in blocks):
            raise InvalidConfig(f"reports.reactivation.blocks is {list(blocks)}; allowed: one or more of 0 to {depth - 1}")
        figure = draw(counts, picture, blocks, f"Do pruned tokens come back? {name_of(row)}")
        _cells(picture, blocks).to_csv(sweep.folder / "reactivation_picture.csv", index=False)
        console.say(words(counts))
        return [*save(figure, sweep.folder, "reactivation", counts.table), "reactivation_picture.csv"]


def count(pictures: "Iterable[Picture]") -> _Counts:
    """Return the means over pictures for each block.

    The columns are block; pruned_share (of all tokens); again_share (of pruned ones, the paper's ratio) with its standard deviation over
    pictures; following_share (of pruned ones, back in the very next block); following_of_again; pooled_again_share (the tokens of all
    pictures together); pictures_pruned (the pictures with a pruned token, over which the shares are means).
    """
    import pandas as pd
    import torch

    from tokenprune.measure.usage import reactivation
    from tokenprune.report.figures.shared.panels import over_images

    parts, sizes = [], []
    for picture in pictures:
        parts.append(reactivation(picture.used.flatten(1)[None]))
        sizes.append(picture.used[0].numel())
    pruned, again, following = (torch.cat([getattr(p, name) for p in parts]) for name in ("pruned", "again", "following"))
    share = over_images(torch.cat([p.share for p in parts]))
    table = {
        "block": range(pruned.shape[1]),
        "pruned_share": (pruned / torch.tensor(sizes).unsqueeze(1)).mean(0),
        "again_share": share["mean"],
        "again_share_std": share["std"],
        "following_share": over_images(following / pruned)["mean"],
        "following_of_again": over_images(torch.cat([p.share_following for p in parts]))["mean"],
        "pooled_again_share": again.sum(0) / pruned.sum(0),
        "pictures_pruned": share["images"],
    }
    return _Counts(pd.DataFrame(table), len(parts), tuple(int(t.sum()) for t in (pruned, again, following)))


def words(counts: _Counts) -> str:
    """Return the figure as a sentence, over the pruned tokens of all pictures and blocks."""
    pruned, again, following = counts.tokens
    if not pruned:
        return "reactivation: no block prunes a token"
    return f"reactivation: {again / pruned:.1%} of pruned tokens are used again later, {following / pruned:.1%} in the very next block"


def middle(table: "pd.DataFrame", number: int = 4) -> tuple[int, ...]:
    """Return `number` blocks in the middle of those that prune enough to show and are not the last, or of all blocks if there are none."""
    able = [int(b) for b in table.loc[table["pruned_share"] >= _FEW, "block"] if b < len(table) - 1] or list(range(len(table)))
    start = max(0, (len(able) - number) // 2)
    return tuple(able[start : start + number])


def draw(counts: _Counts, picture: "Picture", blocks: "Sequence[int]", title: str) -> "Figure":
    """Return the figure: bars for the blocks above, the picture and its maps at `blocks` below."""
    from tokenprune.report.figures.shared.panels import LARGE, SMALL, draw_painted, draw_picture, new_figure, tallest

    maps = 11 / (1 + len(blocks)) * tallest([picture]) + 0.9
    figure = new_figure(11, 4.4 + maps, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=(4.0, maps))
    about = f"(a) mean over {counts.pictures} validation pictures; error bars: standard deviation over pictures"
    upper.suptitle(about, fontsize=LARGE - 1, x=0.01, ha="left")
    left, right = upper.subplots(1, 2)
    _ratios(left, counts.table)
    _shares(right, counts.table)
    about = f"(b) picture {picture.number}: a block uses the tokens through which the picture shows"
    lower.suptitle(about, fontsize=LARGE - 1, x=0.01, ha="left")
    axes = lower.subplots(1, 1 + len(blocks), squeeze=False)[0]
    draw_picture(axes[0], picture)
    axes[0].set_title("picture", fontsize=SMALL + 1)
    for axis, block in zip(axes[1:], blocks, strict=True):
        states = state_of(picture, block)
        soon = (states == 1) & picture.used[block + 1 : block + 2].any(0)
        draw_painted(axis, picture, [(states == 1, _AGAIN), (soon, _SOON), (states == 2, _GONE)])
        axis.set_title(f"block {block}", fontsize=SMALL + 1)
    _legend(figure)
    return figure


def state_of(picture: "Picture", block: int) -> "Tensor":
    """Return the state of each token, (H,W): 0 if the block uses it, 1 if only later blocks do, 2 if no later block does."""
    used, later = picture.used[block], picture.used[block + 1 :].any(0)
    return (~used).int() + (~used & ~later).int()


def _ratios(axis: "Axes", table: "pd.DataFrame") -> None:
    """Draw the paper's ratio: the share of the tokens pruned by a block that are used again."""
    from tokenprune.report.figures.shared.panels import BLACK, NORMAL, SMALL, open_axis

    few = table["pruned_share"] < _FEW
    for which, opacity in ((~few, 1.0), (few, 0.35)):
        part = table[which]
        at, soon, later = part["block"], part["following_share"], part["again_share"] - part["following_share"]
        axis.bar(at, soon, color=_SOON, alpha=opacity, width=_BAR)
        axis.bar(at, later, bottom=soon, color=_AGAIN, alpha=opacity, width=_BAR)
        axis.errorbar(at, soon + later, part["again_share_std"], fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2, alpha=opacity)
    for block in table.loc[table["pictures_pruned"] == 0, "block"]:
        axis.text(block, 0.02, "nothing pruned", ha="center", rotation=90, fontsize=SMALL)
    axis.text(len(table) - 1, 0.02, "0 by definition", ha="center", rotation=90, fontsize=SMALL)
    open_axis(axis).set(xticks=list(table["block"]), xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.1), xlabel="block")
    axis.set_ylabel("share of the pruned tokens", fontsize=NORMAL)
    axis.set_title(f"of the tokens a block prunes (pale: it prunes under {_FEW:.0%})", fontsize=NORMAL)


def _shares(axis: "Axes", table: "pd.DataFrame") -> None:
    """Draw the same as a share of all tokens, so that a block that prunes little shows little."""
    from tokenprune.report.figures.shared.panels import NORMAL, open_axis

    bottom = 0 * table["block"]
    again, following = (table[name].fillna(0) * table["pruned_share"] for name in ("again_share", "following_share"))
    parts = ((following, _SOON, None), (again - following, _AGAIN, None), (table["pruned_share"] - again, _GONE, _EDGE))
    for height, colour, edge in parts:
        axis.bar(table["block"], height, bottom=bottom, color=colour, edgecolor=edge, linewidth=0.8, width=_BAR)
        bottom = bottom + height
    open_axis(axis).set(xticks=list(table["block"]), xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.1), xlabel="block")
    axis.set_ylabel("share of all tokens", fontsize=NORMAL)
    axis.set_title("of all tokens (a whole bar: all tokens that the block prunes)", fontsize=NORMAL)


def _legend(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    from tokenprune.report.figures.shared.panels import NORMAL

    names = {"pruned, used again by the very next block": _SOON, "pruned, used again later": _AGAIN, "pruned for good": _GONE}
    patches = [Patch(facecolor=colour, edgecolor=_EDGE, label=name) for name, colour in names.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=NORMAL, frameon=False)


def _cells(picture: "Picture", blocks: "Sequence[int]") -> "pd.DataFrame":
    """Return a row a cell and block: 0 used, 1 pruned and used again later, 2 pruned for good."""
    import pandas as pd

    from tokenprune.report.figures.shared.panels import cells_table

    return pd.concat([cells_table([picture], [state_of(picture, block)], "state").assign(block=block) for block in blocks])
