"""Holds one validation picture as a task's model saw it: its pixels, the tokens that each block used, and predictions if there are any."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenprune.measure.usage import Used


@dataclass(frozen=True)
class Predictions:
    """Holds the detected objects of a picture.

    Attributes:
        boxes: Boxes XYXY in pixels of the picture, (n,4) float.
        scores: Scores in [0,1], (n,).
        masks: Masks, (n,h,w) bool.
        names: Name of each object's class; () where names were not asked for.
    """

    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    names: tuple[str, ...] = ()

    def above(self, score: float) -> "Predictions":
        """Return the objects of at least this score."""
        sure = self.scores >= score
        names = tuple(name for name, is_sure in zip(self.names, sure, strict=True) if is_sure) if self.names else ()
        return Predictions(self.boxes[sure], self.scores[sure], self.masks[sure], names)

    def ordered(self, score: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the box (4,) and mask (h,w) of each object of at least this score.

        The order is from left to right, so that equal objects get equal colours.
        """
        sure = self.above(score)
        return [(sure.boxes[k], sure.masks[k]) for k in np.argsort(sure.boxes[:, 0], kind="stable")]


@dataclass(frozen=True)
class LabelMap:
    """Holds a class for each pixel of a picture.

    Attributes:
        values: Classes, (h,w) int64; -1 for none.
        classes: Names of the classes.
    """

    values: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Guesses:
    """Holds a classifier's best classes of a picture, the best one first.

    Attributes:
        names: Names of the classes, or "class 7" where names are not known.
        shares: Their probabilities in [0,1].
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """Holds one picture.

    Attributes:
        number: Its index in the validation split.
        pixels: RGB at the model's input size, without padding, (h,w,3) uint8.
        used: The cells used by each block, (L,H,W) bool. They are the cells whose patch holds a pixel of the picture; padding is left out.
        patch: Side of a cell in pixels.
        predictions: The model's predictions; None if the task has none or none were asked for.
        truth: The objects or labels to find, if the task has them.
        owners: Who speaks for each cell in each block, (L,H,W) int32, see `measure.usage.Used`; None if it was not recorded.
        tokens: Tokens in the attention of each block, those of the padding and those without a cell included; None likewise.
        gmac: The encoder's GMAC (linear, total) on this picture; None likewise.
    """

    number: int
    pixels: np.ndarray
    used: Tensor
    patch: int
    predictions: Predictions | LabelMap | Guesses | None = None
    truth: Predictions | LabelMap | None = None
    owners: Tensor | None = None
    tokens: tuple[int, ...] | None = None
    gmac: tuple[float, float] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Return (H,W), the grid of the cells."""
        return tuple(self.used.shape[1:])

    def foreground(self, score: float = 0.5, cover: float = 0.5) -> Tensor:
        """Return the cells that predicted masks cover, (H,W) bool (SViT Fig. 11).

        Args:
            score: Masks of objects below this score do not count.
            cover: A cell is foreground from this share of its pixels on. At the rim only pixels of the picture count.
        """
        return self.covered(self.predictions.above(score).masks, cover)

    def covered(self, masks: np.ndarray, cover: float) -> Tensor:
        """Return the cells of which masks (n,h,w) bool cover at least this share of the pixels, (H,W) bool."""
        inside = torch.from_numpy(masks.any(0)) if len(masks) else torch.zeros(self.pixels.shape[:2], dtype=torch.bool)
        return _mean_of_cells(inside, self.patch) >= cover


def cropped(used: Used, patch: int, height: int, width: int) -> Tensor:
    """Return usage (L,H,W) bool without the cells that hold only padding of a picture of height x width pixels."""
    return _inside(used.blocks, used.grid, patch, height, width)


def at_pixels(values: np.ndarray, patch: int, height: int, width: int) -> np.ndarray:
    """Return the values of cells (H,W) at each pixel of a picture, (height,width); cells at the rim may reach beyond it."""
    return values.repeat(patch, 0).repeat(patch, 1)[:height, :width]


def traced(used: Used, patch: int, height: int, width: int) -> dict[str, Any]:
    """Return `used`, `owners` and `tokens` of a `Picture` of height x width pixels, from a record with owners."""
    cells = {name: _inside(values, used.grid, patch, height, width) for name, values in (("used", used.blocks), ("owners", used.owners))}
    return {**cells, "tokens": tuple(used.tokens.tolist())}


def _inside(values: Tensor, grid: tuple[int, int], patch: int, height: int, width: int) -> Tensor:
    return values.unflatten(1, grid)[:, : -(-height // patch), : -(-width // patch)]


def most_frequent(values: np.ndarray, patch: int) -> np.ndarray:
    """Return (H,W) the most frequent value of each cell of patch x patch pixels of a label map (h,w), -1 where most pixels have none."""
    height, width = values.shape
    cells = np.pad(values, ((0, -height % patch), (0, -width % patch)), mode="edge")
    cells = cells.reshape(cells.shape[0] // patch, patch, -1, patch).transpose(0, 2, 1, 3).reshape(-1, patch * patch)
    counts = np.stack([(cells == k).sum(1) for k in range(-1, int(values.max(initial=-1)) + 1)])
    return (counts.argmax(0) - 1).reshape(-(-height // patch), -1)


def _mean_of_cells(inside: Tensor, patch: int) -> Tensor:
    """Return the mean of (h,w) over each cell's pixels. Cells cut off by the rim are averaged over the pixels that they have."""
    return F.avg_pool2d(inside.float()[None], patch, ceil_mode=True, count_include_pad=False)[0]
