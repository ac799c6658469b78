"""Defines baselines that read no feature: random choice and pixel variance (Cropr section 4)."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.methods.selectors.shared.noise import at_slots, uniform
from tokenprune.registry import register

TRAIT = "pixel_variance"


@register("selector", "variance")
class PixelVariance(Selector):
    """Keeps the patches whose normalised input pixels vary most: the variance over a patch, averaged over channels."""

    module = "parameter-free"
    paper = "Cropr's baseline"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the slots of greatest pixel variance, which is computed once an image. Fused tokens have no pixels and stay."""
        if TRAIT in seen.state.traits:
            return keep_top(seen.trait(TRAIT, missing=float("inf")), seen.mask, budget.keep)
        variance = seen.pixels().var(-1, unbiased=False).mean(-1)  # (B,N)
        found = at_slots(variance, seen.state)
        return keep_top(found, seen.mask, budget.keep, traits={TRAIT: found})


@register("selector", "random")
class RandomSelector(Selector):
    """Keeps tokens at random; at test time the draw depends on the seed, the block and the image alone, not on the rest of the batch.

    Args:
        context: see `Context`.
        seed: Seed of the draw at test time. None draws anew each time, which is faster because no image is hashed.
    """

    module = "parameter-free"
    paper = "Cropr's baseline"

    def __init__(self, context: Context, seed: int | None = 0) -> None:
        super().__init__(context)
        self.seed = seed

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep `budget.keep` slots drawn without replacement."""
        return keep_top(uniform(seen, None if self.training else self.seed), seen.mask, budget.keep)
