"""One validation picture as a task's model saw it: pixels, the tokens that each block used, predictions where there are any."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenprune.measure.usage import Used


@dataclass(frozen=True)
class Predictions:
    """Detected objects of a picture: boxes (n,4) float XYXY in its pixels, scores (n,) in [0,1], masks (n,h,w) bool."""

    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def above(self, score: float) -> "Predictions":
        """Return the objects of at least this score."""
        sure = self.scores >= score
        return Predictions(self.boxes[sure], self.scores[sure], self.masks[sure])

    def ordered(self, score: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return box (4,) and mask (h,w) of each object of at least this score from left to right, so that equal ones get equal colours."""
        sure = self.above(score)
        return [(sure.boxes[k], sure.masks[k]) for k in np.argsort(sure.boxes[:, 0], kind="stable")]


@dataclass(frozen=True)
class LabelMap:
    """A class for each pixel of a picture: values (h,w) int64, -1 where there is none; the names of the classes."""

    values: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One picture.

    number: its index in the validation split. pixels (h,w,3) uint8 RGB at the model's input size, without padding. used (L,H,W) bool:
    the cells whose patch holds a pixel of the picture, padding left out. patch: side of a cell in pixels. predictions: None where
    the task has none or none were asked for. truth: what was to be found, where the task has it.
    """

    number: int
    pixels: np.ndarray
    used: Tensor
    patch: int
    predictions: Predictions | LabelMap | None = None
    truth: Predictions | LabelMap | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(H,W) of the cells."""
        return tuple(self.used.shape[1:])

    def foreground(self, score: float = 0.5, cover: float = 0.5) -> Tensor:
        """Return (H,W) bool: the cells that predicted masks cover (SViT Fig. 11).

        Args:
            score: masks of objects below it do not count.
            cover: share of the cell's pixels, from which on it is foreground; at the rim only pixels of the picture count.
        """
        return self.covered(self.predictions.above(score).masks, cover)

    def covered(self, masks: np.ndarray, cover: float) -> Tensor:
        """Return (H,W) bool: the cells of whose pixels masks (n,h,w) bool cover at least this share."""
        inside = torch.from_numpy(masks.any(0)) if len(masks) else torch.zeros(self.pixels.shape[:2], dtype=torch.bool)
        return _mean_of_cells(inside, self.patch) >= cover


def cropped(used: Used, patch: int, height: int, width: int) -> Tensor:
    """Return (L,H,W) bool without the cells that hold only padding of a picture of height x width pixels."""
    return used.blocks.unflatten(1, used.grid)[:, : -(-height // patch), : -(-width // patch)]


def most_frequent(values: np.ndarray, patch: int) -> np.ndarray:
    """Return (H,W) the most frequent value of each cell of patch x patch pixels of a label map (h,w), -1 where most pixels have none."""
    height, width = values.shape
    cells = np.pad(values, ((0, -height % patch), (0, -width % patch)), mode="edge")
    cells = cells.reshape(cells.shape[0] // patch, patch, -1, patch).transpose(0, 2, 1, 3).reshape(-1, patch * patch)
    counts = np.stack([(cells == k).sum(1) for k in range(-1, int(values.max(initial=-1)) + 1)])
    return (counts.argmax(0) - 1).reshape(-(-height // patch), -1)


def _mean_of_cells(inside: Tensor, patch: int) -> Tensor:
    """Mean of (h,w) over each cell's pixels; cells cut off by the rim are averaged over what they have."""
    return F.avg_pool2d(inside.float()[None], patch, ceil_mode=True, count_include_pad=False)[0]
