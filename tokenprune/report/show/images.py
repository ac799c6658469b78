"""Reads the pictures that are shown: files, folders, PIL images and arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.data.pixels import upright
from tokenprune.data.readers import UNREADABLE, is_hidden
from tokenprune.errors import DatasetError, InvalidConfig

ALLOWED = "a path, a PIL image, an array (h,w,3) uint8, or a normalised tensor (3,h,w) or (1,3,h,w)"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def files_of(given: Sequence[Path]) -> list[Path]:
    """Return picture files: each that is given, and of each folder those directly in it, by name.

    Raises:
        DatasetError: There is no such file or folder, or a folder without pictures.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in ENDINGS and not is_hidden([one.name]))
        if not inside:
            raise DatasetError(f"folder {path} holds no picture directly; allowed endings: {', '.join(ENDINGS)}")
        found += inside
    return found


def pixels_of(image: Any) -> np.ndarray:
    """Return a picture as RGB pixels (h,w,3) uint8, turned by its EXIF orientation.

    Args:
        image: A path, a PIL image, or an array (h,w,3) uint8.

    Raises:
        InvalidConfig: It is none of these.
        DatasetError: The file is no readable picture.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return upright(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    got = f"an array {image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
    raise InvalidConfig(f"show: the image is {got}; allowed: {ALLOWED}")


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of a file, (h,w,3) uint8.

    Raises:
        DatasetError: It is missing or no readable picture.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except UNREADABLE as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise DatasetError(f"picture {path}: {reason}; give a readable picture, such as a JPEG or PNG") from error
