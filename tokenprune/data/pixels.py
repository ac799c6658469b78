"""From a decoded picture of whatever mode to plain pixels."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return pixels (H,W,3) uint8 RGB."""
    if image.mode.startswith("I;16"):  # PIL would clip 16-bit grey at 255 instead of scaling it
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))
