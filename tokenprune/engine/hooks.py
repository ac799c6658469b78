"""What a method does beside its decisions."""

from collections.abc import Mapping

from torch import Tensor

from tokenprune.engine.observation import Observation
from tokenprune.engine.state import TokenState


class MethodHooks:
    """Calls of the engine to a method, in every block and at the end of a pass; this class does nothing.

    A selector class that needs them returns an object of a subclass from `Selector.hooks`. The engine asks for it once a model. It holds
    options and nothing of a batch.
    """

    @property
    def observes(self) -> bool:
        """Tell whether `observe` does anything; the engine calls it only then."""
        return type(self).observe is not MethodHooks.observe

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return traits (B,M) to store for the live slots; called in every block, with its projections, before its attention."""
        return {}

    def conclude(self, state: TokenState) -> TokenState:
        """Return the state that the final norm reads, given the one after the last block."""
        return state
