"""Draws SViT Figure 11 (the supplement's Figure 4): foreground tokens are used more than background tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tokenprune.errors import TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of, shown
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tokenprune.tasks.pictures import Picture


class _Split(NamedTuple):
    """Holds the usage of foreground and background.

    Attributes:
        table: A row for each block, with mean and standard deviation of both parts.
        pictures: Number of pictures.
        with_foreground: Number of pictures with a foreground token.
    """

    table: "pd.DataFrame"
    pictures: int
    with_foreground: int


@register("report", "foreground")
@dataclass(frozen=True)
class ForegroundFigure(FigureReport):
    """Draws the share of foreground and of background tokens that each block uses, split by predicted masks (SViT Fig. 11).

    Args:
        method: Method whose first finished row is shown.
        images: Number of validation pictures that are averaged over, from the first; None for all.
        pictures: Indices of the example pictures; those beyond the split's end are left out.
        score: Masks predicted with at least this score are foreground.
        cover: Share of a token's patch that they must cover.
    """

    method: str = "svit"
    images: int | None = None
    pictures: tuple[int, ...] = (0, 1, 2)
    score: float = 0.5
    cover: float = 0.5

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write foreground.png and foreground.csv (a row a block)."""
        from tokenprune.report.figures.shared.panels import save

        row = row_of(sweep, self.method)
        loaded = load(sweep, row)
        split = self.split(loaded.pictures(None if self.images is None else range(self.images)))
        examples = shown(loaded, self.pictures)
        console.say(words(split))
        title = f"Foreground tokens (masks predicted with score {self.score:g} or more) and background tokens\n{name_of(row)}"
        return save(self.draw(split, examples, title), sweep.folder, "foreground", split.table)

    def split(self, pictures: "Iterable[Picture]") -> _Split:
        """Return the shares of both parts that each block uses: mean and standard deviation over the pictures that have the part.

        Raises:
            TokenPruneError: The task predicts no masks.
        """
        import pandas as pd
        import torch

        from tokenprune.measure.usage import by_foreground
        from tokenprune.report.figures.shared.panels import over_images

        shares = []
        for picture in pictures:
            if picture.predictions is None:
                raise TokenPruneError("foreground: this task predicts no masks, by which tokens are split; use task=detection")
            here = picture.foreground(self.score, self.cover).flatten()[None]
            shares.append(by_foreground(picture.used.flatten(1)[None], here))
        inside, outside = (over_images(torch.cat(part)) for part in zip(*shares, strict=True))
        table = pd.DataFrame({"block": range(len(inside))})
        for name, part in (("foreground", inside), ("background", outside)):
            table[[name, f"{name}_std", f"{name}_pictures"]] = part.to_numpy()
        return _Split(table, len(shares), int(inside["images"].max()))

    def draw(self, split: _Split, examples: "Sequence[Picture]", title: str) -> "Figure":
        """Return the figure: curves on the left, example pictures with their masks and usage on the right."""
        from tokenprune.report.figures.shared.panels import NORMAL, draw_map, new_figure, tallest

        figure = new_figure(13, 1.2 + max(4.2, (1.75 * tallest(examples) + 0.2) * len(examples)), title)
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
        _curves(left.subplots(), split)
        depth = examples[0].used.shape[0]
        axes = right.subplots(len(examples), 3, squeeze=False)
        for line, picture in zip(axes, examples, strict=True):
            counts = picture.used.sum(0)
            image = draw_map(line[2], picture, counts, (min(int(p.used.sum(0).min()) for p in examples), depth))
            self._example(line, picture, counts)
        bar = right.colorbar(image, ax=axes[:, 2].tolist(), shrink=0.8)
        bar.set_label(f"blocks that use the token, of {depth}", fontsize=NORMAL)
        return figure

    def _example(self, line: "Sequence[Axes]", picture: "Picture", counts: "object") -> None:
        from tokenprune.report.figures.shared.panels import SMALL, WHITE, draw_painted, draw_picture, over

        inside = picture.foreground(self.score, self.cover)
        draw_picture(line[0], picture, self.score)
        draw_painted(line[1], picture, [(~inside, WHITE)], 0.85)
        if inside.any() and not inside.all():
            line[2].contour(over(picture, inside.numpy()), levels=[0.5], colors="white", linewidths=1)
        line[0].set_title(f"picture {picture.number}", fontsize=SMALL)
        line[1].set_title("foreground tokens", fontsize=SMALL)
        means = [f"{part} {counts[where].float().mean():.1f}" for part, where in (("in", inside), ("out", ~inside)) if where.any()]
        line[2].set_title("blocks a token: " + ", ".join(means), fontsize=SMALL)


def words(split: _Split) -> str:
    """Return the figure in a sentence."""
    if not split.with_foreground:
        return "foreground: no picture has a foreground token; the model finds nothing, or reports.foreground.score is too high"
    means = split.table[["foreground", "background"]].mean()
    return f"foreground: a block uses {means['foreground']:.1%} of foreground tokens and {means['background']:.1%} of background tokens"


def _curves(axis: "Axes", split: _Split) -> None:
    from tokenprune.report.figures.shared.panels import BLUE, NORMAL, ORANGE, open_axis

    table = split.table
    for name, colour, marker in (("foreground", ORANGE, "o"), ("background", BLUE, "s")):
        mean, spread = table[name], table[f"{name}_std"]
        axis.fill_between(table["block"], mean - spread, (mean + spread).clip(upper=1), color=colour, alpha=0.18, linewidth=0)
        axis.plot(table["block"], mean, color=colour, marker=marker, markersize=5, label=f"{name} tokens")
    open_axis(axis).set(xticks=list(table["block"]), ylim=(0, 1.03))
    axis.set_xlabel("block", fontsize=NORMAL)
    axis.set_ylabel("share of the tokens that the block uses", fontsize=NORMAL)
    about = f"mean over {split.pictures} validation pictures, {split.with_foreground} with foreground; band: ± standard deviation"
    axis.set_title(about, fontsize=NORMAL)
    axis.legend(fontsize=NORMAL, loc="lower left")
