"""What an encoder returns."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenprune.engine.execution import BlockUsage
from tokenprune.engine.plan import described_usage
from tokenprune.engine.state import TokenState


@dataclass(frozen=True)
class Outputs:
    """What the encoder returns.

    state: the final TokenState, before the final norm. usage: one BlockUsage a block, prefix tokens included; `describe` prints it.
    map (B,N,C): every position after the final norm, exact zeros where `present` (B,N) is False. prefix (B,P,C): prefix tokens after the
    final norm. aux: see TokenState.
    """

    state: TokenState
    usage: tuple[BlockUsage, ...]
    map: Tensor
    present: Tensor
    prefix: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Grid (H,W) of the map."""
        return self.state.grid

    def describe(self) -> str:
        """Return a table of the tokens that each block attended to, asked for and fed, prefix tokens included, as means over the images."""
        return described_usage(self.usage, self.state.positions, self.state.prefix_count)

    @property
    def aux(self) -> tuple[tuple[str, int, Any], ...]:
        """Auxiliary records (name, block, payload)."""
        return self.state.aux
