"""From tokens to feature maps: what every module around a pruned encoder has in common, and the plainest one."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT
from tokenprune.engine.outputs import Outputs


class EncoderMaps(nn.Module):
    """A module that owns a pruned encoder and makes feature maps of its tokens.

    `last_outputs` keeps the encoder's Outputs of the latest call, from which losses and token usage are read.
    """

    def __init__(self, pruned: "PrunedViT") -> None:
        """pruned: the encoder; it is owned, so its parameters appear under `pruned.`."""
        super().__init__()
        self.pruned = pruned
        self.last_outputs: Outputs | None = None

    @property
    def divisor(self) -> int:
        """Pixels that the sides of an image must be a multiple of."""
        return self.pruned.family.divisor

    def encode(self, images: Tensor) -> Outputs:
        """Return the encoder's Outputs as it works in here, with whatever this module does to its tokens on the way."""
        self(images)
        return self.last_outputs

    def encoder_alone(self, images: Tensor) -> Callable[[], Any]:
        """Return a call that repeats the encoder's own part of a forward, to be timed."""
        return partial(self.pruned.encode, images)

    def losses(self, **given: Any) -> dict[str, Tensor]:
        """The encoder's own weighted losses on the latest images, `given` fields of `losses.base.LossInputs`; {} in evaluation."""
        return {} if self.last_outputs is None else self.pruned.losses(self.last_outputs, **given)


class DenseMap(EncoderMaps):
    """Images (B,3,H,W) -> map (B,C,H/p,W/p) of a pruned encoder, every token at its own cell."""

    def forward(self, images: Tensor) -> Tensor:
        """H and W must be multiples of the patch size."""
        outputs = self.pruned.encode(images)
        self.last_outputs = outputs
        return outputs.map.transpose(1, 2).unflatten(2, outputs.grid)
