"""Defines A-ViT (Yin et al., CVPR 2022): adaptive computation time for each token, read from its first channel."""

from collections.abc import Sequence
from typing import Any

from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.methods.selectors.shared.halting import SPENT, Halting, LastHalting, mean_score
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")


@register("selector", "a_vit")
class AViTHalting(Selector):
    """Halts a token once its halting scores h = sigmoid(gamma x_0 - beta), one a block, add up to 1 - eps; it has no parameters of its own.

    The output of a token is the mean of its values after each block, weighted by h. In the block where it halts the weight is the remainder
    1 - sum h; in the last block h = 1 (paper, section 3). A halted token is dropped: no other token attends to it. With `preserve` the
    dense map shows the outputs of all tokens. With `remove` the output of the class token is the same, and the map shows zeros for the
    tokens that halted before the end.

    Prefix tokens have halting scores and outputs, too. Once they halt they add nothing to their output, but stay visible to the other
    tokens. If all patch tokens of an image would halt, one of them stays visible as well. The released code hides halted prefix tokens, and
    lets all patch tokens halt: `variant: released`. The output of a class token that halts early then no longer sees later patches.

    Args:
        context: see `Context`.
        gamma: 5 in the paper; 10 in the released commands.
        beta: 10 in the paper, which adds a beta of -10. The released commands have 30 for DeiT-T and 75 for DeiT-S.
        eps: How far below 1 the sum of scores may be when a token halts.
        variant: `fixed`, or `released`, which hides halted prefix tokens.

    Raises:
        InvalidConfig: eps is outside (0, 1), or the variant is unknown.
    """

    budget = "dynamic"
    count_role = "blocks"
    absorbing = True
    learns = True
    module = "adaptive computation time"
    paper = "A-ViT, CVPR 2022"
    published = {"treatment": "preserve", "schedule": {"name": "free"}}

    def __init__(self, context: Context, gamma: float = 5.0, beta: float = 10.0, eps: float = 0.01, variant: str = "fixed") -> None:
        super().__init__(context)
        if not 0 < eps < 1:
            raise InvalidConfig(f"a_vit: eps is {eps}; allowed: 0 < eps < 1")
        self.halting = Halting(gamma, beta, eps)
        released = one_of("a_vit", "variant", variant, VARIANTS) == "released"
        self.may_keep_none = released and context.prefix > 0  # where prefix tokens go on

    @property
    def caveat(self) -> str:
        """Return the remark that the tokens themselves set their number."""
        return "tokens halt by their own scores: no keep rate is aimed at, read the kept share"

    @classmethod
    def hooks(cls, selectors: Sequence[Any]) -> MethodHooks:
        """Return the hook that lets the last block's tokens halt."""
        return LastHalting(selectors[0].halting, selectors[0].context.depth)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Take in the block before this one, and drop the tokens that halt with it."""
        P, h = seen.state.prefix_count, self.halting.scores(seen.state)
        traits = self.halting.take_in(seen.state, h, seen.block)
        halted = (traits[SPENT][:, P:] >= 1) & (seen.state.index >= 0)
        score = 1 - h[:, P:]  # the probability to go on
        keep, prefix_keep = seen.live & ~halted, None
        if self.may_keep_none:
            going = traits[SPENT][:, :P] < 1
            over = ~(going.any(1, keepdim=True) | keep.any(1, keepdim=True))
            prefix_keep = going | over  # attention needs a visible token, also where all outputs are finished
        else:
            keep = at_least_one(keep, score, seen.live)
        notes = {"halting": (seen.block, mean_score(seen.state, h))}
        return Decision(keep, score=score, traits=traits, notes=notes, prefix_keep=prefix_keep)
