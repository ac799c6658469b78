"""Checks COCO segmentations and decodes them to masks: polygons, uncompressed and compressed RLE."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_LIMIT = 1e9  # coordinates beyond this are no pixels; the comparison also refuses NaN, infinities and huge integers


def is_number(value: Any) -> bool:
    """Tell if `value` is a finite JSON number of a plausible magnitude. true and false are not."""
    return type(value) in (int, float) and -_LIMIT < value < _LIMIT


def segmentation_problem(value: Any, height: int, width: int) -> tuple[str, Any, str] | None:
    """Return None for a decodable segmentation, else (field below `segmentation`, its value, the allowed values).

    Decoding runs in C code without bounds checks, so the sum of run lengths is checked before.
    """
    if isinstance(value, list):
        return _polygon_problem(value)
    if isinstance(value, Mapping):
        return _rle_problem(value, height, width)
    return "", value, "a list of polygons or an RLE object with size and counts"


def without_short_polygons(value: Any) -> Any:
    """Return a list of polygons without those that are no area: fewer than three points, or an odd count of numbers; else the value."""
    if not isinstance(value, list):
        return value
    return [polygon for polygon in value if not isinstance(polygon, list) or (len(polygon) >= 6 and len(polygon) % 2 == 0)]


def _polygon_problem(polygons: list[Any]) -> tuple[str, Any, str] | None:
    if not polygons:
        return "", polygons, "at least one polygon"
    for k, polygon in enumerate(polygons):
        if not isinstance(polygon, list):
            return f"[{k}]", polygon, "a flat list of numbers [x1, y1, x2, y2, ...]"
        if len(polygon) < 6 or len(polygon) % 2:
            return f"[{k}]", f"a list of {len(polygon)} numbers", "an even count of at least 6 numbers"
        for j, number in enumerate(polygon):
            if not is_number(number):
                return f"[{k}][{j}]", number, "a finite number"
    return None


def _rle_problem(rle: Mapping[str, Any], height: int, width: int) -> tuple[str, Any, str] | None:
    size = rle.get("size")
    if not isinstance(size, list) or len(size) != 2 or any(type(v) is not int for v in size) or size != [height, width]:
        return ".size", size, f"[height, width] of the image, {[height, width]}"
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = decode_counts(counts)
        if runs is None:
            return ".counts", counts, "a compressed RLE string of COCO"
    elif isinstance(counts, list) and all(type(v) is int and 0 <= v < _LIMIT for v in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        return ".counts", counts, "a list of integers >= 0 or a compressed RLE string"
    if len(runs) and runs.min() < 0 or runs.sum() != height * width:
        return ".counts", f"run lengths that sum to {runs.sum()}", f"run lengths >= 0 that sum to height * width = {height * width}"
    return None


def decode_counts(text: str) -> np.ndarray | None:
    """Return the run lengths (n,) int64 of a compressed COCO RLE string, or None if the string is no such code.

    Each character holds 5 bits, least significant group first, with bit 5 as 'more follows' and the sign in bit 4 of the last group. From
    the fourth run on, the code stores the difference from the run two places before.
    """
    if not text or not text.isascii():
        return None
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > 7:  # 35 bits: longer than any run of an image
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[last] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def to_rle(value: Any, height: int, width: int) -> dict[str, Any]:
    """Return one compressed RLE (counts as bytes) of a segmentation that `segmentation_problem` has accepted."""
    from pycocotools import mask as rle_tools

    if isinstance(value, list):
        return rle_tools.merge(rle_tools.frPyObjects(value, height, width))
    if isinstance(value["counts"], list):
        return rle_tools.frPyObjects(dict(value), height, width)
    return {"size": [height, width], "counts": value["counts"].encode("ascii")}


def to_mask(value: Any, height: int, width: int) -> np.ndarray:
    """Return the mask (height,width) bool of a checked segmentation."""
    from pycocotools import mask as rle_tools

    return rle_tools.decode(to_rle(value, height, width)).astype(bool)


def area_of(value: Any, height: int, width: int) -> float:
    """Return the number of pixels that a checked segmentation covers."""
    from pycocotools import mask as rle_tools

    return float(rle_tools.area(to_rle(value, height, width)))
