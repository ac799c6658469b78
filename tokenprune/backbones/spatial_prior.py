"""Builds the spatial prior of ViT-Adapter (Chen et al., ICLR 2023, section 3.2): a small convolutional pyramid beside a plain ViT."""

import torch
from torch import Tensor, nn

LEVELS = 3  # levels of the pyramid that exchange with the ViT: strides of half a patch, one patch and two patches


class SpatialPrior(nn.Module):
    """Maps images (B,3,H,W) to maps of strides p/4, p/2, p and 2p for patches of p pixels, all with the ViT's channels.

    It has three 3x3 convolutions, the first with stride 2, a max pooling if p/4 is 4, then three convolutions of stride 2; each convolution
    has BatchNorm and ReLU. 1x1 convolutions bring every map to `dim` channels. The three coarser maps get a learned vector a level.

    Args:
        dim: Channels of the ViT.
        patch_size: Patch size p in pixels.
        width: Channels of the first convolutions.
        finest: Whether the map of stride p/4 is wanted.
    """

    def __init__(self, dim: int, patch_size: int, width: int = 64, finest: bool = True) -> None:
        """Build the convolutions."""
        super().__init__()
        pool = [nn.MaxPool2d(3, 2, 1)] if patch_size == 16 else []
        self.stem = nn.Sequential(*_conv(3, width, 2), *_conv(width, width, 1), *_conv(width, width, 1), *pool)
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stages = nn.ModuleList(nn.Sequential(*_conv(a, b, 2)) for a, b in zip(widths, widths[1:], strict=False))
        self.finest = nn.Conv2d(width, dim, 1) if finest else None
        self.project = nn.ModuleList(nn.Conv2d(w, dim, 1) for w in widths[1:])
        self.level_embed = nn.Parameter(nn.init.normal_(torch.empty(LEVELS, dim)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor | None, Tensor, list[tuple[int, int]]]:
        """Return the maps.

        Returns:
            c1 (B,C,4H/p,4W/p) or None; c2, c3, c4 as one sequence (B,S,C), finest first, in raster order; their shapes (h,w).
        """
        x = self.stem(images)
        first = None if self.finest is None else self.finest(x)
        tokens, shapes = [], []
        for stage, project, embed in zip(self.stages, self.project, self.level_embed, strict=True):
            x = stage(x)
            tokens.append(project(x).flatten(2).transpose(1, 2) + embed)
            shapes.append((x.shape[-2], x.shape[-1]))
        return first, torch.cat(tokens, 1), shapes


def to_maps(tokens: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Split a sequence (B,S,C) into its maps (B,C,h,w)."""
    parts = tokens.split([h * w for h, w in shapes], 1)
    return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


def _conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
