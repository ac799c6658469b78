"""Draws which tokens each model keeps of a picture: a figure of chosen blocks, and a moving picture of all of them."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tokenprune.report.figures.shared.panels import LARGE, NORMAL, SMALL, draw_answer, framed, tallest
from tokenprune.report.show.page import gmac_in_words, in_html
from tokenprune.report.show.shown import Entry, Frame, Shown, frames, hue
from tokenprune.report.show.svg import border
from tokenprune.tasks.pictures import Guesses, at_pixels

_COLUMNS = 6  # blocks that a figure shows unless others are asked for
_FADE = 0.84  # share of white in a dropped patch
_SIDE = 1.55  # inches of a picture
_SCORE = 0.5
_MILLISECONDS, _LAST = 600, 1800  # of a block, and of the last one, in a moving picture
_HEIGHT = 900  # pixels of the page inside a notebook


class TokenFigure(Figure):
    """Is a Matplotlib figure that a notebook shows as the page with the slider, and as a picture where pages are not shown.

    Attributes:
        shown: What it shows.
    """

    shown: Shown | None = None

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def _repr_html_(self) -> str | None:
        """Return the page in a frame of its own, so that its styles and keys stay inside."""
        if self.shown is None:
            return None
        page = html.escape(in_html([self.shown], "Which tokens are kept"), quote=True)
        style = "width: 100%; border: 1px solid #d9dde3; border-radius: 4px"
        return f'<iframe srcdoc="{page}" title="tokens kept by block" height="{_HEIGHT}" style="{style}"></iframe>'


def draw(shown: Shown, blocks: Sequence[int] | None = None) -> TokenFigure:
    """Return the figure: a line a model, its answer at the end, and a column a block.

    Args:
        shown: A picture and what the models did with it.
        blocks: The blocks; None takes up to six, from the first to the last.
    """
    chosen = spread(shown.depth) if blocks is None else list(blocks)
    pictures = [entry.picture for entry in shown.entries]
    height = (_SIDE * tallest(pictures) + 0.5) * len(shown.entries) + 0.4
    figure = TokenFigure(figsize=(_SIDE * (len(chosen) + 1.35) + 0.6, height), layout="constrained")
    figure.shown = shown
    figure.suptitle(shown.name, fontsize=LARGE)
    widths = [*[1] * len(chosen), 1.35]
    axes = figure.subplots(len(shown.entries), len(chosen) + 1, squeeze=False, width_ratios=widths)
    for line, entry in zip(axes, shown.entries, strict=True):
        line[0].set_ylabel(entry.label, fontsize=NORMAL)
        for axis, block in zip(line, chosen, strict=False):
            draw_block(axis, entry, block)
        _answer(line[-1], entry, shown.dense)
    return figure


def spread(depth: int) -> list[int]:
    """Return up to six blocks of `depth`, evenly from the first to the last."""
    return sorted({round(k) for k in np.linspace(0, depth - 1, min(depth, _COLUMNS)).tolist()})


def draw_block(axis: Axes, entry: Entry, block: int) -> None:
    """Show a picture as one block uses it: dropped patches faded, merged groups outlined. A model of fewer blocks shows its last."""
    picture, found = entry.picture, list(frames(entry.picture))
    frame = next((one for one in found if one.first <= block <= one.last), found[-1])
    axis.imshow(faded(picture.pixels, frame, picture.patch))
    for label, mask in frame.groups.items():
        width = max(1.0, 0.09 * picture.patch)
        lines = [((x1 - 0.5, y1 - 0.5), (x2 - 0.5, y2 - 0.5)) for x1, y1, x2, y2 in border(mask, picture.patch, width / 2)]
        colour = hsv_to_rgb((hue(label) / 360, 0.85, 1.0))
        axis.add_collection(LineCollection(lines, colors=[colour], linewidths=0.9))
    framed(axis).set_title(f"block {min(block, found[-1].last)}\n{frame.tokens} tokens", fontsize=SMALL)
    axis.set(xlim=(-0.5, picture.pixels.shape[1] - 0.5), ylim=(picture.pixels.shape[0] - 0.5, -0.5))


def faded(pixels: np.ndarray, frame: Frame, patch: int) -> np.ndarray:
    """Return pixels (h,w,3) uint8 with white laid over the patches that no token speaks for."""
    gone = at_pixels(frame.gone.numpy(), patch, *pixels.shape[:2])[..., None]
    return np.where(gone, (1 - _FADE) * pixels + _FADE * 255, pixels).round().astype(np.uint8)


def _answer(axis: Axes, entry: Entry, dense: Entry | None) -> None:
    """Show a detector's or segmenter's answer on the picture, or a classifier's guesses as bars."""
    gmac, words = gmac_in_words(entry, dense)
    axis.set_title(f"{gmac} GMAC{words.partition(' (')[0]}", fontsize=SMALL)
    guesses = entry.picture.predictions
    if guesses is not None and not isinstance(guesses, Guesses):
        draw_answer(axis, entry.picture, guesses, _SCORE)
        return
    axis.spines[:].set_visible(False)
    axis.set(xticks=[], yticks=[], xlim=(0, 1))
    if isinstance(guesses, Guesses):
        axis.barh(range(len(guesses.names)), guesses.shares, color="#0072b2", alpha=0.3)
        for line, (name, share) in enumerate(zip(guesses.names, guesses.shares, strict=True)):
            axis.text(0.02, line, f"{share:.0%} {name}", va="center", fontsize=SMALL - 1, clip_on=True)
        axis.invert_yaxis()


def moving(shown: Shown) -> list[Image.Image]:
    """Return one picture a block: all models side by side."""
    return [_still(shown, block) for block in range(shown.depth)]


def _still(shown: Shown, block: int) -> Image.Image:
    entries = shown.entries
    height = 2.2 * tallest([entry.picture for entry in entries]) + 0.7
    figure = Figure(figsize=(2.2 * len(entries) + 0.2, height), layout="constrained")
    figure.suptitle(f"block {block} of 0 to {shown.depth - 1}", fontsize=NORMAL)
    for axis, entry in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
        draw_block(axis, entry, block)
        axis.set_title(f"{entry.label}\n{axis.get_title().splitlines()[1]}", fontsize=SMALL)
    return _rendered(figure)


def _rendered(figure: Figure, dpi: int = 100) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")


def save_gif(shown: Shown, path: Path) -> None:
    """Write the moving picture as GIF: a block after the other, without end."""
    first, *others = (image.quantize(128, dither=Image.Dither.NONE) for image in moving(shown))
    durations = [*[_MILLISECONDS] * len(others), _LAST]
    options: dict[str, Any] = {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
    first.save(path, "gif", **options)


def save_png(shown: Shown, path: Path, blocks: Sequence[int] | None = None) -> None:
    """Write the figure as PNG."""
    draw(shown, blocks).savefig(path, format="png", dpi=130)
