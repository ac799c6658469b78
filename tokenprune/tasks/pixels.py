"""Normalises the pixels of images."""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGE_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, on the 0..255 scale, RGB
IMAGE_STD = (58.395, 57.12, 57.375)


def normalised(images: Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD) -> Tensor:
    """Return images (B,3,H,W) on the 0..255 scale as normalised floats, by default with ImageNet's statistics."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() - mean) / std
