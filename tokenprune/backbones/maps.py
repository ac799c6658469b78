"""Turns tokens into feature maps: the base of all modules around a pruned encoder, and the plainest of them."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT
from tokenprune.engine.outputs import Outputs


class EncoderMaps(nn.Module):
    """Owns a pruned encoder and makes feature maps of its tokens.

    `last_outputs` keeps the encoder's Outputs of the latest call, from which losses and token usage are read.

    Args:
        pruned: The encoder. The module owns it, so its parameters appear under `pruned.`.
    """

    def __init__(self, pruned: "PrunedViT") -> None:
        """Take over the encoder."""
        super().__init__()
        self.pruned = pruned
        self.last_outputs: Outputs | None = None

    @property
    def divisor(self) -> int:
        """Return the number of pixels that divides the sides of every image."""
        return self.pruned.family.divisor

    def encode(self, images: Tensor) -> Outputs:
        """Return the encoder's Outputs as it works inside this module, which may change its tokens between blocks."""
        self(images)
        return self.last_outputs

    def encoder_alone(self, images: Tensor) -> Callable[[], Any]:
        """Return a call that repeats the encoder's own part of a forward pass, for timing."""
        return partial(self.pruned.encode, images)

    def losses(self, **given: Any) -> dict[str, Tensor]:
        """Return the encoder's own weighted losses on the latest images; {} in evaluation.

        Args:
            given: Fields of `engine.loss.LossInputs`.
        """
        return {} if self.last_outputs is None else self.pruned.losses(self.last_outputs, **given)


class DenseMap(EncoderMaps):
    """Maps images (B,3,H,W) to the map (B,C,H/p,W/p) of a pruned encoder, with every token in its own cell."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the map. H and W must be multiples of the patch size."""
        outputs = self.pruned.encode(images)
        self.last_outputs = outputs
        return outputs.map.transpose(1, 2).unflatten(2, outputs.grid)
