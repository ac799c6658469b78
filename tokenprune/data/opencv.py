"""Resizes pictures as OpenCV's bilinear `resize` does, bit for bit, without OpenCV; and computes sizes as mmcv's `rescale_size`.

mmdetection's detectors were trained and judged on such pictures. Pillow's bilinear filter, which Detectron2 uses, averages over more
pixels when it makes a picture smaller. When it makes one larger, the two are at most one grey level apart.
"""

from typing import NamedTuple

import numpy as np

_ONE = 2048  # OpenCV keeps weights as whole numbers of 2048ths
_DROPPED = 4  # bits of a row's sum that are dropped before the columns' weights are applied


class Taps(NamedTuple):
    """Holds the two pixels that each pixel of the result reads along one side, and the weight of each in 2048ths."""

    near: np.ndarray
    far: np.ndarray
    near_weight: np.ndarray
    far_weight: np.ndarray


def fitted(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Return the size (height, width) at which a picture fits `short` and `long`, both sides rounded from one factor.

    Args:
        height: Height of the picture in pixels.
        width: Its width.
        short: Greatest short side.
        long: Greatest long side.
    """
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture of another size.

    Args:
        image: Pixels, (H,W,3) uint8.
        height: Wanted height.
        width: Wanted width.

    Returns:
        Pixels, (height,width,3) uint8.
    """
    across, down = _taps(image.shape[1], width, inside=True), _taps(image.shape[0], height, inside=False)
    pixels = image.astype(np.int32)
    rows = pixels[:, across.near] * across.near_weight[:, None] + pixels[:, across.far] * across.far_weight[:, None]
    rows >>= _DROPPED
    upper, lower = (
        rows[taken] * weight[:, None, None] >> 16 for taken, weight in ((down.near, down.near_weight), (down.far, down.far_weight))
    )
    return (upper + lower + 2 >> 2).clip(0, 255).astype(np.uint8)


def _taps(before: int, after: int, inside: bool) -> Taps:
    """Return what the pixels of a side of `after` pixels read of one of `before` pixels.

    Args:
        before: Pixels of the side of the picture.
        after: Pixels of the side of the result.
        inside: Whether a place beyond the outer pixels' centres reads the outer pixel alone. OpenCV does so for columns only; for rows
            both taps are the outer row.
    """
    scale = 1.0 / (after / before)
    centre = ((np.arange(after, dtype=np.float64) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(centre)
    share = centre - low
    near = low.astype(np.int64)
    if inside:
        share = np.where((near < 0) | (near >= before - 1), np.float32(0), share)
    weights = (np.rint(part * np.float32(_ONE)).astype(np.int32) for part in (np.float32(1) - share, share))
    return Taps(near.clip(0, before - 1), (near + 1).clip(0, before - 1), *weights)
