"""Turns decoded images of any mode into RGB pixels."""

import numpy as np
from PIL import Image, ImageOps

EXIF_ORIENTATION = 0x0112  # the tag
_DEEP = ("I", "F")  # 32-bit whole numbers and floating point numbers


def upright(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image, (H,W,3) uint8 RGB, turned by its EXIF orientation."""
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image as they are stored, (H,W,3) uint8 RGB.

    Raises:
        ValueError: The image has 32-bit values whose scale is not known.
    """
    if image.mode.startswith("I;16"):  # PIL would clip 16-bit grey at 255 instead of scaling it
        return _grey((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _DEEP:
        return _grey(_scaled(np.asarray(image)))
    return np.array(image.convert("RGB"))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return 32-bit values on the scale of 8 bits; PIL would clip them to black or white.

    Values up to 1 (floating point), 255 or 65535 are taken for that scale. A greater value has no scale that could be known.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also of NaN
        raise ValueError(
            f"its {values.dtype} values go from {low:g} to {high:g}, and their scale is not known; allowed are 0 to 1 (floating point),"
            " 0 to 255 and 0 to 65535: convert it to 8 or 16 bits"
        )
    if values.dtype.kind == "f" and high <= 1:
        return np.round(values * 255).astype(np.uint8)
    return (np.round(values) if high <= 255 else values // 256).astype(np.uint8)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)
