"""From tokens to one feature map."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenprune.engine import PrunedViT
from tokenprune.outputs import Outputs


class DenseMap(nn.Module):
    """Images (B,3,H,W) -> map (B,C,H/p,W/p) of a pruned encoder, every token at its own cell.

    `last_outputs` keeps the encoder's Outputs of the latest call, from which losses and token usage are read.
    """

    def __init__(self, pruned: "PrunedViT") -> None:
        """pruned: the encoder; it is owned, so its parameters appear under `pruned.`."""
        super().__init__()
        self.pruned = pruned
        self.last_outputs: Outputs | None = None

    def forward(self, images: Tensor) -> Tensor:
        """H and W must be multiples of the patch size."""
        outputs = self.pruned.encode(images)
        self.last_outputs = outputs
        return outputs.map.transpose(1, 2).unflatten(2, outputs.grid)

    def losses(self) -> dict[str, Tensor]:
        """The encoder's own weighted losses on the latest images; {} in evaluation or where a method has none."""
        return {} if self.last_outputs is None else self.pruned.losses(self.last_outputs)
