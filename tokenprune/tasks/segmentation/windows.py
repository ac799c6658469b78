"""Judges pictures by windows that overlap, as Segmenter's authors judge their published files (Strudel et al. 2021, section 4.1).

A picture is resized as OpenCV does until its shorter side has the side of a window. Windows stand a step apart, the last of each row and
column at the edge. Their logits are averaged where they overlap and enlarged to the picture's own size.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenprune.data import opencv
from tokenprune.tasks.classification.views import Statistics
from tokenprune.tasks.pixels import normalised
from tokenprune.tasks.segmentation.model import Segmenter
from tokenprune.tasks.segmentation.views import View
from tokenprune.utils.finite import check_finite

OVERLAP = 32  # least pixels that neighbouring windows share
_LONGEST = 4  # greatest long side of a resized picture, in sides of a window


def labelled(model: Segmenter, view: View, side: int, statistics: Statistics, batch: int, device: torch.device) -> Tensor:
    """Return the predicted class of each pixel, (H,W), of a picture at its own size.

    Args:
        model: The segmenter, on `device`.
        view: The picture and its labels.
        side: Side of a window in pixels.
        statistics: Mean and standard deviation of each channel, on the 0..255 scale.
        batch: Windows in a forward pass.
        device: The model's device.

    Raises:
        Diverged: Logits are NaN or infinite.
    """
    logits = averaged(model, prepared(view, side, statistics).to(device), side, batch)
    return F.interpolate(logits.unsqueeze(0), view.size, mode="bilinear", align_corners=False)[0].argmax(0)


def prepared(view: View, side: int, statistics: Statistics) -> Tensor:
    """Return a picture as the windows are cut from it, (1,3,h,w), normalised; neither h nor w is below `side`."""
    pixels = view.image.permute(1, 2, 0).numpy()
    size = opencv.fitted(*view.size, side, _LONGEST * side)
    if size != view.size:
        pixels = opencv.resize(pixels, *size)
    rounded = (np.round(values, 2).tolist() for values in statistics)  # the authors round 123.675 to two digits
    image = normalised(torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0), *rounded)
    if min(size) >= side:
        return image
    long = int(max(size) / min(size) * side)  # a picture more than four times as long as it is high
    return F.interpolate(image, (side, long) if size[0] < size[1] else (long, side), mode="bilinear", align_corners=False)


def averaged(model: Segmenter, image: Tensor, side: int, batch: int) -> Tensor:
    """Return logits (K,h,w) of an image (1,3,h,w): the mean over all windows that cover a pixel."""
    places = list(product(*(starts(length, side) for length in image.shape[-2:])))
    count = image.new_zeros(1, *image.shape[-2:])
    total = None
    for at, logits in _of_windows(model, image, places, side, batch):
        total = logits.new_zeros(len(logits), *image.shape[-2:]) if total is None else total
        total[at] += logits
        count[at] += 1
    return total / count


def starts(length: int, side: int) -> list[int]:
    """Return where windows of `side` pixels begin along a picture of `length`: a step apart, the last at the end."""
    return [*range(0, length - side, max(1, side - OVERLAP)), length - side]


def _of_windows(
    model: Segmenter, image: Tensor, places: list[tuple[int, int]], side: int, batch: int
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield the place of each window, as an index of (K,h,w), and its logits (K,side,side)."""
    cuts = [(slice(None), slice(top, top + side), slice(left, left + side)) for top, left in places]
    for first in range(0, len(cuts), batch):
        chosen = cuts[first : first + batch]
        windows = torch.stack([image[0][cut] for cut in chosen])
        logits = model(windows)
        check_finite(logits, model, partial(model, windows))
        yield from zip(chosen, logits.float(), strict=True)
