"""Values that selectors store for each position, and how they reach the positions of a sequence that has lost some."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.engine.indexing import behind, put, take

if TYPE_CHECKING:
    from tokenprune.engine.state import TokenState


_LAYERS = 4  # sequences of one trait that are held at most before they are written to their positions


@dataclass(frozen=True, eq=False)
class Recent:
    """The last values of a trait as they lie in the sequence, above what was stored before.

    Whoever reads them by the same index gets them without a step; they are written to their positions when somebody else asks.

    Attributes:
        before: What was stored before, by position (B,P+N,...), or such values of an earlier sequence.
        values: (B,P+M,...).
        index: (B,M) positions of the sequence's slots.
        layers: How many sequences lie above each other.
    """

    before: "Tensor | Recent"
    values: Tensor
    index: Tensor
    layers: int = 1

    @classmethod
    def above(cls, found: "Tensor | Recent", values: Tensor, index: Tensor) -> "Recent":
        """Return values (B,P+M,...) above what was `found`; those of the same sequence are replaced."""
        if not isinstance(found, Recent):
            return cls(found, values, index)
        if found.index is index:
            return cls(found.before, values, index, found.layers)
        return cls(found, values, index, found.layers + 1) if found.layers < _LAYERS else cls(_spread(found), values, index)


def _spread(found: Tensor | Recent) -> Tensor:
    """Return a trait by position (B,P+N,...)."""
    if not isinstance(found, Recent):
        return found
    prefix = found.values.shape[1] - found.index.shape[1]
    return put(_spread(found.before), behind(found.index, prefix), found.values, everywhere=True)


class Traits(Mapping[str, Tensor]):
    """Traits by name, each (B,P+N,...): the values of P prefix tokens and N positions.

    Args:
        held: Traits by name, of positions or of the sequence.
    """

    def __init__(self, held: Mapping[str, Tensor | Recent] | None = None) -> None:
        self.held: Mapping[str, Tensor | Recent] = {} if held is None else held

    def __contains__(self, name: object) -> bool:
        """Tell whether a trait was stored."""
        return name in self.held

    def __getitem__(self, name: str) -> Tensor:
        """Return a trait by position, (B,P+N,...).

        Raises:
            KeyError: a trait that was not stored.
        """
        return _spread(self.held[name])

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self.held)

    def __len__(self) -> int:
        """Return the number of traits."""
        return len(self.held)

    @classmethod
    def of(cls, traits: Mapping[str, Tensor]) -> "Traits":
        """Return traits that may be an ordinary mapping by position."""
        return traits if isinstance(traits, Traits) else cls(traits)

    def at_slots(self, name: str, state: "TokenState", missing: float = 0.0) -> Tensor:
        """Return a trait by the slots of a state, (B,M,...); slots without a position read `missing`.

        Raises:
            KeyError: a trait that was not stored.
        """
        found, index, P = self.held[name], state.index, state.prefix_count
        if isinstance(found, Recent) and found.index is index:
            return found.values[:, P:]
        stored = _spread(found)
        if state.known.in_grid_order:
            return stored[:, P:]
        if state.known.all_placed:
            return take(stored, index + P)
        values = take(stored, index.clamp(min=0) + P)
        known = (index >= 0).reshape(*index.shape, *[1] * (values.dim() - 2))
        return values.where(known, values.new_full((), missing))  # a number of the host would be copied to the device

    def stored(self, name: str, values: Tensor, state: "TokenState", where: Tensor | None = None) -> "Traits":
        """Return the traits with values (B,M,...) at the positions of a state's slots, where `where` (B,M) is true.

        Values (B,P+M,...) are those of the prefix tokens, too.
        """
        index, P, whole = state.index, state.prefix_count, values.shape[1] > state.index.shape[1]
        everywhere = state.known.all_placed and (where is None or state.known.complete)
        if whole and everywhere and state.known.in_grid_order:
            return self._with(name, values)
        found = self.held.get(name)
        if found is None:
            found = values.new_zeros(index.shape[0], P + state.positions, *values.shape[2:])
        if whole and everywhere:
            return self._with(name, Recent.above(found, values, index))
        before = _spread(found)
        if everywhere and state.known.in_grid_order:
            return self._with(name, torch.cat([before[:, :P], values], 1))
        if everywhere:
            return self._with(name, put(before, index + P, values, everywhere))
        if whole:
            before, values = torch.cat([values[:, :P], before[:, P:]], 1), values[:, P:]
        placed = index >= 0 if where is None else where & (index >= 0)
        return self._with(name, put(before, (index + P).where(placed, -1), values))

    def _with(self, name: str, value: Tensor | Recent) -> "Traits":
        return Traits({**self.held, name: value})
