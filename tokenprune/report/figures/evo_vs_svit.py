"""Draws SViT Figure 10 (the supplement's Figure 3): the tokens that Evo-ViT and SViT keep, block by block."""

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

    from tokenprune.tasks.pictures import Picture

Seen = Mapping[str, "list[Picture]"]


@register("report", "evo_vs_svit")
@dataclass(frozen=True)
class EvoVsSvit(FigureReport):
    """Draws the tokens that each block of two or more methods uses, on the same pictures (SViT Fig. 10).

    Args:
        methods: Methods whose first finished rows are shown, each as a line of maps.
        pictures: Indices in the validation split; those beyond its end are left out.
    """

    methods: tuple[str, ...] = ("evo_vit", "svit")
    pictures: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: There is nothing to compare.
        """
        super().__post_init__()
        if not self.methods:
            raise InvalidConfig("reports.evo_vs_svit.methods is empty; allowed: one or more methods of the sweep, e.g. [evo_vit, svit]")

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write evo_vs_svit.png and evo_vs_svit.csv (picture, method, block, kept_share, same_as_before)."""
        from tokenprune.report.figures.shared.panels import save

        rows = [row_of(sweep, method) for method in self.methods]
        seen = {row["label"]: shown(load(sweep, row), self.pictures, predict=False) for row in rows}
        numbers = overlaps(seen)
        console.say(words(numbers))
        title = "Tokens that each block uses, their share below; the others are painted white\n" + "; ".join(map(name_of, rows))
        return save(draw(seen, title), sweep.folder, "evo_vs_svit", numbers, dpi=100)  # more dots would make a file of megabytes


def overlaps(seen: Seen) -> "pd.DataFrame":
    """Return a row for each picture, method and block.

    kept_share is used tokens / all. same_as_before is the tokens used by this block and the one before / tokens used by either; 1 is the
    same set. It is NaN if neither of the two blocks prunes.
    """
    import pandas as pd

    rows = []
    for label, pictures in seen.items():
        for picture in pictures:
            for block, used in enumerate(picture.used):
                before = picture.used[block - 1] if block else used
                compared = block > 0 and not bool((used & before).all())
                same = float((used & before).sum() / (used | before).sum()) if compared else float("nan")
                rows.append((picture.number, label, block, float(used.float().mean()), same))
    return pd.DataFrame(rows, columns=["picture", "method", "block", "kept_share", "same_as_before"])


def words(numbers: "pd.DataFrame") -> str:
    """Return a sentence on how much of its set of tokens each method keeps from block to block, over blocks that both prune."""
    pruning = numbers["kept_share"] < 1
    both = numbers[pruning & pruning.shift(fill_value=False) & (numbers["block"] > 0)]
    means = both.groupby("method", sort=False)["same_as_before"].mean()
    if not len(means):
        return "evo_vs_svit: no two successive blocks prune"
    return "evo_vs_svit: tokens shared by successive pruning blocks: " + ", ".join(f"{label} {mean:.0%}" for label, mean in means.items())


def draw(seen: Seen, title: str) -> "Figure":
    """Return the figure: a picture and, beside it, one line of maps a method."""
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, WHITE, draw_painted, draw_picture, new_figure, tallest

    series = [list(pictures) for pictures in seen.values()]
    depth, lines = max(len(p[0].used) for p in series), len(series)
    height = (0.98 * tallest(series[0]) + 0.22) * lines * len(series[0])
    figure = new_figure(1.1 * (depth + 2) + 0.4, height + 0.9, title)
    grid = figure.add_gridspec(lines * len(series[0]), depth + 2)
    for place, picture in enumerate(series[0]):
        whole = figure.add_subplot(grid[place * lines : (place + 1) * lines, :2])
        draw_picture(whole, picture)
        whole.set_title(f"picture {picture.number}", fontsize=NORMAL)
        for line, (label, pictures) in enumerate(seen.items()):
            for block, used in enumerate(pictures[place].used):
                axis = figure.add_subplot(grid[place * lines + line, 2 + block])
                draw_painted(axis, pictures[place], [(~used, WHITE)], 0.9)
                if place == line == 0:
                    axis.set_title(f"block {block}", fontsize=SMALL + 1)
                axis.set_xlabel(f"{used.float().mean():.0%}", fontsize=SMALL, labelpad=2)
                if block == 0:
                    axis.set_ylabel(label, fontsize=NORMAL)
    return figure
