"""Images of every mode become 8-bit RGB."""

import numpy as np
import pytest
from PIL import Image

from tokenprune.data.pixels import to_rgb


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 128, 255], np.int32, [0, 128, 255]),
        ([0, 32768, 65535], np.int32, [0, 128, 255]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 127.6, 255], np.float32, [0, 128, 255]),
        ([0, 32768, 65535], np.float32, [0, 128, 255]),
        ([0, 32768, 65535], np.uint16, [0, 128, 255]),
    ],
)
def test_deep_images_are_scaled_and_not_clipped(tmp_path, values, kind, expected):
    Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as image:
        assert image.mode in ("I", "F", "I;16")
        pixels = to_rgb(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 3, 3) and pixels[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "kind"), [([-1, 5], np.int32), ([0, 1 << 20], np.int32), ([0.5, np.nan], np.float32), ([-0.1, 1], np.float32)]
)
def test_values_of_an_unknown_scale_are_refused(values, kind):
    with pytest.raises(ValueError, match="scale is not known; allowed are 0 to 1"):
        to_rgb(Image.fromarray(np.array([values], dtype=kind)))
