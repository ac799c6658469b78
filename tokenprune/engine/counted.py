"""A selector that keeps a number of tokens given beforehand, by the scores of another one."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector, keep_top
from tokenprune.errors import TokenPruneError

_FACTS = ("site", "visibility", "reads_cls", "peeks", "normed", "saves_computation", "reads_previous_block", "module", "paper")


class Counted(Selector):
    """Decides as another selector, whose numbers depend on the image, but keeps exactly as many tokens as the schedule says, the best ones.

    It is for timing: with random weights such a selector would keep other numbers than trained. Its own decision is computed all the same,
    so that its time counts.

    Args:
        inner: The selector, in eval mode.

    Raises:
        TokenPruneError: It merges or mixes tokens, or switches parts of blocks, which a number of tokens does not describe.
    """

    name = "counted"

    def __init__(self, inner: Selector) -> None:
        super().__init__(inner.context)
        if inner.merging or inner.mixing or not inner.saves_computation:
            raise TokenPruneError(f"selector {inner.name!r} cannot keep given counts: it does more than keep or drop tokens")
        self.inner = inner
        for fact in _FACTS:
            setattr(self, fact, getattr(inner, fact))

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the decision of the inner selector with the `budget.keep` best live slots in the place of its own."""
        decision = self.inner.score(seen, budget)
        ranked = decision.keep.to(seen.tokens.dtype) if decision.score is None else decision.score
        return keep_top(ranked, seen.mask, budget.keep)

    def macs(self, slots: float) -> float:
        """Return the MACs of the inner selector."""
        return self.inner.macs(slots)
