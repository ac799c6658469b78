"""Records the class token's attention to every position by block, averaged over heads (SViT's supplement, Fig. 2: "layer attention").

The values are exact rows of each block's softmax over the tokens that take part in it, as `Observation.cls_row` gives them. No attention
matrix is ever formed. Shapes: L blocks, N = H*W positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenprune.engine.indexing import put
from tokenprune.engine.model import pruned_of
from tokenprune.engine.observation import Observation
from tokenprune.errors import TokenPruneError


class Attended(NamedTuple):
    """Holds the attention of one image.

    Attributes:
        blocks: Attention by block and position, (L,N) float on the CPU; NaN where a position has no token in that block.
        grid: The grid (H,W) of the positions.
    """

    blocks: Tensor
    grid: tuple[int, int]

    def cropped(self, height: int, width: int) -> Tensor:
        """Return (L,height,width): the cells of a picture without those that hold only padding."""
        return self.blocks.unflatten(1, self.grid)[:, :height, :width]


@contextmanager
def attention_of(model: nn.Module) -> Iterator[list[Attended]]:
    """Collect the class attention of every image that `model` sees inside the `with` block, in order; whole passes only.

    Args:
        model: A PrunedViT or any module around one. Fused tokens have no position and are left out of the maps.

    Raises:
        TokenPruneError: The model has no PrunedViT, or no class token whose attention could be read.
    """
    pruned = pruned_of(model)
    if pruned is None:
        raise TokenPruneError(f"attention: {type(model).__name__} has no PrunedViT inside; make one with tokenprune.prune")
    if not pruned.prefix_tokens:
        raise TokenPruneError("attention: the model has no class token, whose attention is recorded; use a backbone with class_token=true")
    images: list[Attended] = []
    rows: list[Tensor] = []

    def see(seen: Observation) -> None:
        rows.append(by_position(seen))
        if len(rows) == pruned.depth:
            maps = torch.stack(rows, 1).float().cpu()
            rows.clear()
            images.extend(Attended(image, seen.state.grid) for image in maps)

    before, pruned.probe = pruned.probe, see
    try:
        yield images
    finally:
        pruned.probe = before


def by_position(seen: Observation) -> Tensor:
    """Return the class token's attention to each position, (B,N), averaged over heads; NaN where no live token stands."""
    row = seen.cls_row().mean(1)
    nothing = torch.full_like(row[:, :1], float("nan")).expand(-1, seen.state.positions)
    return put(nothing, seen.state.index.where(seen.live, -1), row)


def coverage(whole: Tensor, used: Tensor) -> Tensor:
    """Return the share of the whole model's patch attention that falls on the positions that another model uses, (L,).

    Args:
        whole: Attention of the whole model, (L,N).
        used: Positions that the other model uses, (L,N) bool.
    """
    return (whole * used).sum(1) / whole.sum(1)
