"""What a learned fusion is."""

from abc import abstractmethod

from torch import nn

from tokenprune.engine.blocks.base import BlockMacs
from tokenprune.engine.state import TokenState


class Fusion(nn.Module):
    """A module between the last block and the final norm that gives every position a token again; a treatment makes it (`module`)."""

    @abstractmethod
    def forward(self, state: TokenState) -> TokenState:
        """Return a state of all N positions in raster order, every one live, given the one after the last block; prefix tokens stay."""

    @abstractmethod
    def macs(self, live: float, positions: int, prefix: int) -> BlockMacs:
        """Return the MACs an image, given M live slots, N positions and P prefix tokens."""
