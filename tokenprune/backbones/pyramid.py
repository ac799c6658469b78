"""Builds the simple feature pyramid of ViTDet (Li et al., 2022, section 3): several scales made from one map of a plain ViT."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.errors import InvalidConfig

SCALES = (4.0, 2.0, 1.0, 0.5)


class ChannelNorm(nn.Module):
    """Applies LayerNorm over the channels of a map (B,C,H,W), at each cell by itself; eps as in ViTDet.

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map: (B,C,H,W) -> (B,C,H,W), also for B = 0."""
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class FeaturePyramid(nn.Module):
    """Maps (B,C,h,w) of stride p to {"p2": stride 4, "p3": stride 8, ...}, each (B,channels,h*scale,w*scale).

    Scale 4 is two stride-2 transposed convolutions, 2 is one, 1 is nothing, and 0.5 is a max pooling. Each is followed by a 1x1 and a 3x3
    convolution without bias and with channel norms.

    Args:
        dim: Channels C of the map.
        patch_size: Stride p of the map in pixels.
        scales: Some of {4, 2, 1, 0.5}, each once.
        channels: Channels of every level.
        top_level: Whether to add one more level: the coarsest one subsampled by 2 (ViTDet's p6).

    Raises:
        InvalidConfig: A scale is none of these or is given twice, or a stride is no power of two.
    """

    def __init__(self, dim: int, patch_size: int, scales: Sequence[float] = SCALES, channels: int = 256, top_level: bool = True) -> None:
        """Build the levels."""
        super().__init__()
        self.strides = level_strides(patch_size, scales, top_level)
        ordered = sorted(scales, reverse=True)
        self.levels = nn.ModuleDict({level_name(patch_size / s): _level(dim, s, channels) for s in ordered})
        self.channels, self.top = channels, list(self.strides)[-1] if top_level else None

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return the levels from fine to coarse."""
        maps = {name: level(features) for name, level in self.levels.items()}
        if self.top:
            maps[self.top] = list(maps.values())[-1][:, :, ::2, ::2]
        return maps


def level_name(stride: float) -> str:
    """Return the usual name of a level: p2 has stride 4, p3 stride 8, and so on."""
    return f"p{round(math.log2(stride))}"


def level_strides(patch_size: int, scales: Sequence[float], top_level: bool = False) -> dict[str, int]:
    """Return {name: stride} of the levels, fine to coarse, the extra one last.

    Raises:
        InvalidConfig: A scale is not of {4, 2, 1, 0.5} or is given twice, or a stride is no power of two.
    """
    _check(patch_size, scales)
    strides = sorted(round(patch_size / s) for s in scales)
    return {level_name(s): s for s in (*strides, *([2 * strides[-1]] if top_level else []))}


def _check(patch_size: int, scales: Sequence[float]) -> None:
    problems = [f"pyramid scale {s} is not allowed, allowed are {', '.join(f'{a:g}' for a in SCALES)}" for s in scales if s not in SCALES]
    if not scales or len(set(scales)) != len(scales):
        problems.append(f"pyramid scales {list(scales)}: give one or more, each once")
    strides = [patch_size / s for s in scales if s in SCALES]
    problems += [
        f"pyramid stride {s:g} (patch_size {patch_size}) is no power of two; use a patch size of 8, 16 or 32"
        for s in strides
        if s < 1 or not math.log2(s).is_integer()
    ]
    if problems:
        raise InvalidConfig(problems)


def _level(dim: int, scale: float, channels: int) -> nn.Sequential:
    resize, width = _resize(dim, scale)
    return nn.Sequential(
        *resize,
        nn.Conv2d(width, channels, 1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels),
    )


def _resize(dim: int, scale: float) -> tuple[list[nn.Module], int]:
    """Return the layers that scale a map, and the channels that come out."""
    if scale == 4:
        first = [nn.ConvTranspose2d(dim, dim // 2, 2, 2), ChannelNorm(dim // 2), nn.GELU()]
        return [*first, nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2)], dim // 4
    if scale == 2:
        return [nn.ConvTranspose2d(dim, dim // 2, 2, 2)], dim // 2
    return ([nn.MaxPool2d(2, 2)] if scale == 0.5 else []), dim
