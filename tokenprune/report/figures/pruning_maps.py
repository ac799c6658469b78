"""Draws Cropr Figures 6 and 7: when each token of a picture leaves, and the predictions in spite of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of, shown
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from tokenprune.tasks.pictures import Picture

Seen = Mapping[str, "list[Picture]"]
_EVERYTHING = "whole picture"


@register("report", "pruning_maps")
@dataclass(frozen=True)
class PruningMaps(FigureReport):
    """Draws the block at which each token of a picture left, predictions of one or more methods, and the truth (Cropr Fig. 6 and 7).

    Args:
        method: Method whose tokens are mapped, in its first finished row.
        compare: Methods whose predictions are shown, in this order.
        pictures: Indices in the validation split; those beyond its end are left out.
        score: Objects predicted with at least this score are drawn.
    """

    method: str = "cropr"
    compare: tuple[str, ...] = ("cropr",)
    pictures: tuple[int, ...] = (0, 1, 2, 3)
    score: float = 0.5

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: There is no prediction to show.
        """
        super().__post_init__()
        if not self.compare:
            raise InvalidConfig("reports.pruning_maps.compare is empty; allowed: one or more methods of the sweep, e.g. [dense, cropr]")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write pruning_maps.png, pruning_maps.csv (picture, row, column, block) and pruning_maps_classes.csv (class, tokens, block)."""
        from tokenprune.report.figures.shared.panels import cells_table, save

        rows = {method: row_of(sweep, method) for method in dict.fromkeys((self.method, *self.compare))}
        seen = {method: shown(load(sweep, row), self.pictures) for method, row in rows.items()}
        maps = [exits(p.used) for p in seen[self.method]]
        classes = by_class(seen[self.method], maps)
        classes.to_csv(sweep.folder / "pruning_maps_classes.csv", index=False)
        console.say(words(classes, rows[self.method]["label"]))
        title = f"The block at which each token leaves, and predictions\n{name_of(rows[self.method])}"
        labels = {rows[method]["label"]: seen[method] for method in self.compare}
        figure = draw(seen[self.method], maps, labels, title, self.score)
        files = save(figure, sweep.folder, "pruning_maps", cells_table(seen[self.method], maps, "block"))
        return [*files, "pruning_maps_classes.csv"]


def exits(used: "Tensor") -> "Tensor":
    """Return the first block that does not use each token, (H,W) long, or L if every block uses it, for usage (L,H,W) bool."""
    return used.long().cumprod(0).sum(0)


def by_class(pictures: "list[Picture]", maps: "list[Tensor]") -> "pd.DataFrame":
    """Return mean exits of the tokens of each true class: class, tokens, share of all, block; the earliest first, all tokens last.

    A token has the class that most of its pixels have (`classes_of_cells`). Tokens of no class count only for the whole picture.
    """
    import pandas as pd

    parts = [pd.DataFrame({"class": classes_of_cells(p), "block": m.flatten().numpy()}) for p, m in zip(pictures, maps, strict=True)]
    cells = pd.concat(parts, ignore_index=True)
    known = cells[cells["class"] != ""].groupby("class", sort=False)["block"].agg(["size", "mean"]).sort_values("mean", kind="stable")
    table = known.reset_index().set_axis(["class", "tokens", "block"], axis=1)
    table.loc[len(table)] = [_EVERYTHING, len(cells), cells["block"].mean()]
    return table.assign(share=table["tokens"] / len(cells))[["class", "tokens", "share", "block"]]


def classes_of_cells(picture: "Picture") -> list[str]:
    """Return a class for each cell of the grid in raster order, "" for none.

    For a label map it is the class of most pixels. For objects it is `object` if their masks cover half of the pixels, else `background`.
    """
    from tokenprune.tasks.pictures import LabelMap, most_frequent

    if picture.truth is None:
        return [""] * picture.used[0].numel()
    if isinstance(picture.truth, LabelMap):
        labels = most_frequent(picture.truth.values, picture.patch).flatten()
        return [picture.truth.classes[k] if k >= 0 else "" for k in labels.tolist()]
    return ["object" if here else "background" for here in picture.covered(picture.truth.masks, 0.5).flatten().tolist()]


def words(classes: "pd.DataFrame", label: str) -> str:
    """Return a sentence on the classes that leave first and last."""
    known = classes[classes["class"] != _EVERYTHING]
    if len(known) < 2:
        return f"pruning_maps: {label}'s tokens leave at block {classes['block'].iloc[-1]:.1f} on average"
    (first, early), (last, late) = (known.iloc[i][["class", "block"]] for i in (0, -1))
    return f"pruning_maps: {label}'s tokens of {first} leave first (block {early:.1f} on average), those of {last} last ({late:.1f})"


def draw(pictures: "list[Picture]", maps: "list[Tensor]", predicted: "Mapping[str, list[Picture]]", title: str, score: float) -> "Figure":
    """Return the figure: one line a picture with its map, one column of predictions a method, and the truth if there is one."""
    from tokenprune.report.figures.shared.panels import NORMAL, draw_answer, draw_map, draw_picture, new_figure, tallest

    depth, told = pictures[0].used.shape[0], pictures[0].truth is not None
    columns = 2 + len(predicted) + told
    figure = new_figure(2.3 * columns + 0.9, (2.3 * tallest(pictures) + 0.1) * len(pictures) + 1.1, title)
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for line, (picture, map_) in enumerate(zip(pictures, maps, strict=True)):
        draw_picture(axes[line, 0], picture)
        image = draw_map(axes[line, 1], picture, map_, (min(int(m.min()) for m in maps), depth))
        for axis, seen in zip(axes[line, 2:], predicted.values(), strict=False):
            draw_answer(axis, seen[line], seen[line].predictions, score)
        if told:
            draw_answer(axes[line, -1], picture, picture.truth, 0.0)
    for axis, name in zip(axes[0], ["input", "pruning map", *predicted, *["truth"] * told], strict=True):
        axis.set_title(name, fontsize=NORMAL)
    bar = figure.colorbar(image, ax=axes[:, 1].tolist(), shrink=0.7, location="bottom", pad=0.02)
    bar.set_label(f"first block without the token ({depth}: every block has it)", fontsize=NORMAL)
    return figure
