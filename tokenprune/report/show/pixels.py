"""Writes pixels as data addresses, so that a page needs no file beside it."""

import base64
import io

import numpy as np
from PIL import Image

_DRAWN = 160  # pictures of at most this side are stored without loss


def data_uri(pixels: np.ndarray) -> str:
    """Return pixels (h,w,3 or 4) uint8 as a data address: PNG where they are few or have an opacity, else JPEG."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    lossless = pixels.shape[2] == 4 or max(pixels.shape[:2]) <= _DRAWN
    kind = "png" if lossless else "jpeg"
    image.save(buffer, kind, **({"optimize": True} if lossless else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
