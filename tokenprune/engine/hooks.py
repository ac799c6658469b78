"""What the engine calls on its way: hooks of a method, and a listener to decisions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.state import TokenState


class MethodHooks:
    """Calls of the engine to a method, in every block and at the end of a pass; this class does nothing.

    A selector class that needs them returns an object of a subclass from `Selector.hooks`. The engine asks for it once a model. It holds
    options and nothing of a batch.

    reads_attention: Whether `observe` looks at the projections of a block. One that does not is given none, and the block may run as the
    model's own.
    """

    reads_attention: ClassVar[bool] = True

    def observes(self, precedes: bool) -> bool:
        """Tell whether `observe` does anything in a block, one that `precedes` a block with a decision; the engine calls it only then."""
        return type(self).observe is not MethodHooks.observe

    def observe(self, seen: Observation) -> Mapping[str, Tensor]:
        """Return traits (B,M) to store for the live slots; called before a block's attention, with its projections if they are read."""
        return {}

    def conclude(self, state: TokenState) -> TokenState:
        """Return the state that the final norm reads, given the one after the last block."""
        return state


@dataclass(frozen=True)
class DecisionListener:
    """Hears the decision of one block in every pass; `PrunedViT.listener` while it listens.

    A pass goes no further than that block: the blocks after it are left out, so that only what is heard is computed.

    Args:
        block: 0-based number.
        hear: Called with what the selector saw, its budget and its decision, before the treatment acts on it.
    """

    block: int
    hear: Callable[[Observation, Budget, Decision], None]
