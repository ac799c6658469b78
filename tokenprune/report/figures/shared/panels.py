"""Draws pictures and maps of their tokens, and sets the look of every figure. Colours are of Okabe and Ito's palette, or viridis."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from tokenprune.tasks.pictures import LabelMap, Picture, Predictions, at_pixels

BLUE, ORANGE, GREEN, CYAN, BLACK, GREY, WHITE = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#222222", "#8a8a8a", "#ffffff"
SMALL, NORMAL, LARGE = 8, 10, 12  # points
_LINES = (ORANGE, BLUE, GREEN, CYAN, "#cc79a7", "#e69f00", "#8c564b", GREY)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=LARGE)
    return figure


def looks() -> Iterator[dict[str, str]]:
    """Yield colours and markers for one curve after the other, without end; of the first 64 no two are alike."""
    for turn in count():
        for place, colour in enumerate(_LINES):
            yield {"color": colour, "marker": _MARKERS[(place + turn) % len(_MARKERS)]}


def save(figure: Figure, folder: Path, name: str, numbers: pd.DataFrame, dpi: int = 130) -> list[str]:
    """Write a figure as name.png and the numbers behind it as name.csv; return both names."""
    figure.savefig(folder / f"{name}.png", dpi=dpi)
    numbers.to_csv(folder / f"{name}.csv", index=False)
    return [f"{name}.png", f"{name}.csv"]


def tallest(pictures: Iterable[Picture]) -> float:
    """Return the greatest height / width of pictures, for the height of their line, limited to the range 0.5 to 1.5."""
    return max(min(max(p.pixels.shape[0] / p.pixels.shape[1], 0.5), 1.5) for p in pictures)


def plain_axis(axis: Axes) -> Axes:
    """Hide ticks and frame, for pictures."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    return axis


def framed(axis: Axes) -> Axes:
    """Hide ticks, and keep a thin frame, so that the border of a picture painted white can be seen."""
    plain_axis(axis).spines[:].set(visible=True, color=GREY, linewidth=0.6)
    return axis


def open_axis(axis: Axes) -> Axes:
    """Keep the left and lower frame and light grid lines, for curves."""
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def draw_picture(axis: Axes, picture: Picture, score: float | None = None) -> None:
    """Show a picture, with the boxes predicted at `score` or more unless that is None."""
    plain_axis(axis).imshow(picture.pixels)
    if score is not None and picture.predictions is not None:
        for x1, y1, x2, y2 in picture.predictions.above(score).boxes:
            for colour, width in ((BLACK, 1.6), (WHITE, 0.7)):  # visible on every background
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width))


def draw_answer(axis: Axes, picture: Picture, answer: Predictions | LabelMap | None, score: float) -> None:
    """Show a picture under its predictions or its truth: one colour a class, or each object's mask and box of at least `score`."""
    plain_axis(axis).imshow(picture.pixels)
    if isinstance(answer, LabelMap):
        axis.imshow(class_colours(answer), alpha=np.where(answer.values < 0, 0.0, 0.65))
    for k, (box, mask) in enumerate(() if answer is None or isinstance(answer, LabelMap) else answer.ordered(score)):
        colour = _LINES[k % len(_LINES)]
        axis.imshow(np.array(to_rgb(colour)) * np.ones((*mask.shape, 1)), alpha=0.45 * mask)
        axis.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=colour, linewidth=1.1))


def class_colours(answer: LabelMap) -> np.ndarray:
    """Return colours (h,w,3) in [0,1]: one a class, the same for a class in every picture."""
    return wheel(len(answer.classes))[answer.values.clip(min=0)]


def wheel(count: int) -> np.ndarray:
    """Return `count` colours (count,3) in [0,1], neighbours far apart, for more classes than there are colours of lines."""
    return np.array([hsv_to_rgb((k * 0.61803 % 1, 0.55 + 0.45 * (k % 2), 0.95 - 0.3 * (k % 3) / 2)) for k in range(count)])


def draw_map(axis: Axes, picture: Picture, values: torch.Tensor, limits: tuple[float, float], colours: str = "viridis") -> AxesImage:
    """Show one number a cell, (H,W), at the picture's size."""
    return plain_axis(axis).imshow(over(picture, values.numpy()), cmap=colours, vmin=limits[0], vmax=limits[1])


def draw_painted(axis: Axes, picture: Picture, coats: Sequence[tuple[torch.Tensor, str]], opacity: float = 1.0) -> None:
    """Show a picture whose cells, (H,W) bool, are painted over with a colour."""
    pixels = picture.pixels / 255
    for cells, colour in coats:
        where = over(picture, cells.numpy())[..., None]
        pixels = np.where(where, (1 - opacity) * pixels + opacity * np.array(to_rgb(colour)), pixels)
    framed(axis).imshow(pixels)


def over(picture: Picture, values: np.ndarray) -> np.ndarray:
    """Return the values of cells (H,W) at each pixel of the picture, (h,w)."""
    return at_pixels(values, picture.patch, *picture.pixels.shape[:2])


def cells_table(pictures: Iterable[Picture], values: Iterable[torch.Tensor], name: str) -> pd.DataFrame:
    """Return one row a cell: picture, row, column and its value (H,W)."""
    tables = [cells_of(map_, name) for map_ in values]
    for picture, table in zip(pictures, tables, strict=True):
        table.insert(0, "picture", picture.number)
    return pd.concat(tables, ignore_index=True)


def cells_of(map_: torch.Tensor, name: str) -> pd.DataFrame:
    """Return one row a cell: row, column and its value (H,W)."""
    rows, columns = np.indices(map_.shape).reshape(2, -1)
    return pd.DataFrame({"row": rows, "column": columns, name: map_.flatten().numpy()})


def over_images(values: torch.Tensor) -> pd.DataFrame:
    """Return mean, standard deviation and number of images of values (I,L) for each block, NaN left out."""
    table = pd.DataFrame(values.numpy())
    return pd.DataFrame({"mean": table.mean(), "std": table.std(ddof=0), "images": table.count()})
