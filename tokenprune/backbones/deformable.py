"""Computes multi-scale deformable attention (Zhu et al., "Deformable DETR", 2021, section 4.1) in plain PyTorch: no kernel to compile."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.errors import InvalidConfig

Shapes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Reads, for each query, a few learned points around its own place on every level of a feature pyramid (Eq. 2).

    A query reads heads * levels * points values.

    Args:
        dim: Channels C of the queries.
        heads: Number of heads.
        levels: Number of levels of the pyramid.
        points: Points that a head reads on a level.
        ratio: Width of the values over `dim`.

    Raises:
        InvalidConfig: The number of heads does not divide the values' width.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int, ratio: float = 1.0) -> None:
        """Start as the paper's appendix says: points on a ring around the query, one direction a head, all with equal weight."""
        super().__init__()
        width = value_width(dim, ratio)
        if width % heads:
            raise InvalidConfig(f"deformable attention: {heads} heads do not divide {width} channels (ratio {ratio:g} of {dim})")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.values = nn.Linear(dim, width)
        self.output = nn.Linear(width, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the initial values."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.values, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring(self.heads, self.levels, self.points).flatten())

    def forward(self, queries: Tensor, reference: Tensor, features: Tensor, shapes: Shapes) -> Tensor:
        """Return the values that each query reads, (B,Q,C).

        Args:
            queries: Queries, (B,Q,C).
            reference: The place of each query as x, y in [0,1], (B,Q,2).
            features: The levels one after the other, each in raster order, (B,S,C).
            shapes: (H,W) of each level; their products sum to S.
        """
        B, Q = queries.shape[:2]
        values = self.values(features).unflatten(-1, (self.heads, -1))
        offsets = self.offsets(queries).view(B, Q, self.heads, self.levels, self.points, 2)
        weights = self.weights(queries).view(B, Q, self.heads, -1).softmax(-1).view(B, Q, self.heads, self.levels, self.points)
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=reference.dtype, device=reference.device)
        places = reference[:, :, None, None, None] + offsets / sizes[:, None]
        return self.output(sample(values, shapes, places, weights))


def value_width(dim: int, ratio: float) -> int:
    """Return the channels of the values for a model of `dim` channels."""
    return int(dim * ratio)


def ring(heads: int, levels: int, points: int) -> Tensor:
    """Return the first offsets (heads, levels, points, 2) in cells: head h looks in its own direction, and point p is p + 1 cells away."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)  # the ring is a square: whole cells away
    distance = torch.arange(1, points + 1, dtype=direction.dtype)
    return (direction[:, None, None] * distance[:, None]).expand(-1, levels, -1, -1)


def sample(values: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of bilinear samples, (B,Q,h*d). Outside a map the values are zero.

    Args:
        values: Values of all levels, (B,S,h,d).
        shapes: (H,W) of each of the L levels in `values`.
        places: x and y in [0,1] over a whole level, (B,Q,h,L,P,2); cell (i,j) has its centre at ((j+.5)/W, (i+.5)/H).
        weights: Weights of the samples, (B,Q,h,L,P).
    """
    B = values.shape[0]
    grids, total = 2 * places - 1, None
    for level, (part, (height, width)) in enumerate(zip(values.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (height, width))  # (B*h,d,H,W)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*h,Q,P,2)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B*h,1,Q,P)
        read = (F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False) * share).sum(-1)
        total = read if total is None else total + read
    return total.unflatten(0, (B, -1)).flatten(1, 2).transpose(1, 2)


def cell_centres(shapes: Shapes, device: torch.device | None = None) -> Tensor:
    """Return the centres (S,2) of all cells of the levels, in raster order, as x, y in [0,1]."""
    centres = []
    for height, width in shapes:
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height, (torch.arange(width, device=device) + 0.5) / width, indexing="ij"
        )
        centres.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(centres)
