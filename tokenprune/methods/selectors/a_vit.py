"""Defines A-ViT (Yin et al., CVPR 2022): adaptive computation time for each token, read from its first channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.engine.state import Decision, TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.registry import register

SPENT, DEPTH, OUTPUT = "halting_spent", "halting_depth", "halting_output"  # traits of positions and prefix tokens


@register("selector", "a_vit")
class AViTHalting(Selector):
    """Halts a token once its halting scores h = sigmoid(gamma x_0 - beta), one a block, add up to 1 - eps; it has no parameters of its own.

    The output of a token is the mean of its values after each block, weighted by h. In the block where it halts the weight is the remainder
    1 - sum h; in the last block h = 1 (paper, section 3). A halted token is dropped: no other token attends to it. With `preserve` the
    dense map shows the outputs of all tokens. With `remove` the output of the class token is the same, and the map shows zeros for the
    tokens that halted before the end.

    Prefix tokens have halting scores and outputs, too. Once they halt they add nothing to their output, but stay visible to the other
    tokens; the released code hides them. If all patch tokens of an image would halt, one of them stays visible as well.

    Args:
        context: see `Context`.
        gamma: 5 in the paper; 10 in the released commands.
        beta: 10 in the paper, which adds a beta of -10. The released commands have 30 for DeiT-T and 75 for DeiT-S.
        eps: How far below 1 the sum of scores may be when a token halts.

    Raises:
        InvalidConfig: eps is outside (0, 1).
    """

    budget = "dynamic"
    count_role = "blocks"
    absorbing = True
    learns = True
    module = "adaptive computation time"
    paper = "A-ViT, CVPR 2022"
    published = {"treatment": "preserve", "schedule": {"name": "free"}}

    def __init__(self, context: Context, gamma: float = 5.0, beta: float = 10.0, eps: float = 0.01) -> None:
        super().__init__(context)
        if not 0 < eps < 1:
            raise InvalidConfig(f"a_vit: eps is {eps}; allowed: 0 < eps < 1")
        self.halting = Halting(gamma, beta, eps)

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
        P, h = seen.state.prefix.shape[1], self.halting.scores(seen.state)
        traits = self.halting.take_in(seen.state, h, seen.block)
        halted = (traits[SPENT][:, P:] >= 1) & (seen.state.index >= 0)
        score = 1 - h[:, P:]  # the probability to go on
        keep = at_least_one(seen.live & ~halted, score, seen.live)
        return Decision(keep, score=score, traits=traits, notes={"halting": (seen.block, mean_score(seen.state, h))})


@dataclass(frozen=True)
class Halting:
    """Keeps A-ViT's halting state (paper section 3) in traits of positions and prefix tokens; see `AViTHalting` for the options."""

    gamma: float
    beta: float
    eps: float

    def scores(self, state: TokenState) -> Tensor:
        """Return h of the prefix and the slots, (B,P+M) in float32."""
        return (self.gamma * state.sequence()[..., 0].float() - self.beta).sigmoid()

    def take_in(self, state: TokenState, h: Tensor, layers: int) -> dict[str, Tensor]:
        """Return the traits after `layers` blocks, each (B,P+M,...).

        They are the scores spent so far (1: halted), the layers executed plus the remainder, and the outputs.
        """
        x = state.sequence()
        spent, depth = recall(state, SPENT, h, missing=1.0), recall(state, DEPTH, h)
        rest = 1 - spent
        closing = spent + h > 1 - self.eps
        weight = torch.where(closing, rest, h)
        output = recall(state, OUTPUT, x) + weight.unsqueeze(-1).to(x.dtype) * x
        depth = torch.where(closing & (rest > 0), layers + rest, depth)
        return {SPENT: torch.where(closing, 1.0, spent + h), DEPTH: depth, OUTPUT: output}


@dataclass(frozen=True)
class LastHalting(MethodHooks):
    """Lets every token that is left halt after the last block.

    Args:
        halting: The halting state of the selectors.
        layers: Number of blocks.
    """

    halting: Halting
    layers: int

    def conclude(self, state: TokenState) -> TokenState:
        """Return the state with every token's output in place of its last value, and note the inputs of `losses.ponder`."""
        P, h = state.prefix.shape[1], self.halting.scores(state)
        last = state.note("halting", self.layers - 1, (self.layers, mean_score(state, h)))
        for name, values in self.halting.take_in(state, torch.ones_like(h), self.layers).items():
            last = last.with_trait(name, values)
        output = last.traits[OUTPUT]
        last = last.note("ponder", self.layers - 1, last.traits[DEPTH])
        return last.with_dense(output[:, P:]).replace(prefix=output[:, :P])


def mean_score(state: TokenState, h: Tensor) -> Tensor:
    """Return the mean halting score h (B,P+M) of a layer over all tokens of each image, (B,). Halted tokens count as 0."""
    going = recall(state, SPENT, h, missing=1.0) < 1
    return (h * going).sum(1) / (state.prefix.shape[1] + state.positions)


def recall(state: TokenState, name: str, like: Tensor, missing: float = 0.0) -> Tensor:
    """Return a trait of the prefix and the slots (B,P+M,...), or zeros of the shape of `like` before it was first stored."""
    if name not in state.traits:
        return torch.zeros_like(like)
    return torch.cat([state.traits[name][:, : state.prefix.shape[1]], state.trait(name, missing)], 1)
