"""What a decision has merged: for the attention of the block that runs, and for whoever asks later who owns a position."""

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """Says which slots a decision has just merged, for the attention map of the block that runs (site `ahead`).

    Attributes:
        gone: (B,R) slots, among them all that were merged.
        into: (B,R) their targets.
        amount: (B,R) weight with which they enter the mean; 0 for a slot that was not merged.
        total: (B,M) weight of each slot's mean.
        exact: Whether every dropped slot was merged, so that rows of the map still sum to 1.
    """

    gone: Tensor
    into: Tensor
    amount: Tensor
    total: Tensor
    exact: bool


class Merger(NamedTuple):
    """Says whose position belongs to whom since a decision merged slots.

    Attributes:
        places: (B,M) position of each slot then.
        gone: (B,R) slots, among them all that were merged.
        into: (B,R) their targets.
        moves: (B,R) bool, which of `gone` were merged; None for all of them.
        vanish: (B,R) bool, which of `gone` went nowhere: their position stays its own, and no live slot stands there; None for none.
        placed: Whether each slot had a position.
    """

    places: Tensor
    gone: Tensor
    into: Tensor
    moves: Tensor | None
    vanish: Tensor | None
    placed: bool

    def heirs(self, positions: int) -> Tensor:
        """Return (B,N): the position that speaks for each of N = `positions` after this decision, given that it spoke for itself before."""
        itself = torch.arange(positions, device=self.into.device).expand(self.places.shape[0], positions)
        place, heir = self.places.gather(1, self.gone), self.places.gather(1, self.into)
        heir = heir if self.vanish is None else place.where(self.vanish, heir)
        if self.moves is None and self.placed:
            return itself.scatter(1, place, heir)
        written = place >= 0 if self.moves is None else self.moves & (place >= 0)
        spill = torch.cat([itself, itself[:, :1]], 1)
        return spill.scatter(1, place.where(written, positions), heir)[:, :positions]
