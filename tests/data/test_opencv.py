"""OpenCV's bilinear resize, against numbers of OpenCV itself and against its arithmetic pixel by pixel; mmcv's rounding of sizes."""

import json
import math
import zlib

import numpy as np
import pytest

from tests.helpers.filled import TRIMMED
from tokenprune.data.opencv import fitted, resize

CASES = json.loads((TRIMMED / "opencv_resize.json").read_text())["cases"]


def pattern(height, width):
    """Pixels that look like noise and depend on the size alone."""
    numbers = np.arange(height * width * 3, dtype=np.uint64) * np.uint64(2654435761)
    return ((numbers >> np.uint64(13)) & np.uint64(255)).astype(np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}x{}-{}x{}".format(*case))
def test_every_pixel_is_opencvs(case):
    height, width, after_height, after_width, crc = case
    found = resize(pattern(height, width), after_height, after_width)
    assert found.shape == (after_height, after_width, 3) and found.dtype == np.uint8
    assert zlib.crc32(found.tobytes()) == crc


def one_pixel(image, row, column, height, width):
    """The same pixel by the formula of OpenCV's fixed-point interpolation, in whole numbers."""

    def taps(place, before, after, columns):
        centre = float(np.float32((place + 0.5) * (1.0 / (after / before)) - 0.5))
        low = math.floor(centre)
        share = float(np.float32(centre) - np.float32(low))
        if columns and not 0 <= low < before - 1:
            share = 0.0
        inside = [min(max(low + step, 0), before - 1) for step in (0, 1)]
        return list(zip(inside, (round(2048 * float(np.float32(1) - np.float32(share))), round(2048 * share)), strict=True))

    across = taps(column, image.shape[1], width, True)
    total = 0
    for y, weight in taps(row, image.shape[0], height, False):
        total += weight * (sum(int(image[y, x, 0]) * part for x, part in across) // 16) // 65536
    return (total + 2) // 4


def test_single_pixels_follow_the_formula():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, after_height, after_width = map(int, rng.integers(1, 50, 4))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        row, column = int(rng.integers(after_height)), int(rng.integers(after_width))
        assert resize(image, after_height, after_width)[row, column, 0] == one_pixel(image, row, column, after_height, after_width)


def test_the_same_size_changes_nothing():
    assert (resize(pattern(31, 17), 31, 17) == pattern(31, 17)).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((483, 640), (800, 1060)), ((500, 375), (1067, 800)), ((230, 352), (800, 1224)), ((100, 900), (148, 1333)), ((900, 100), (1333, 148))],
)
def test_sizes_are_rounded_from_one_factor(size, expected):
    assert fitted(*size, short=800, long=1333) == expected
