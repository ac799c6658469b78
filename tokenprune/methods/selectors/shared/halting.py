"""Defines A-ViT's halting (Yin et al., CVPR 2022, section 3): scores spent, depth and outputs of tokens, kept in traits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.state import TokenState

SPENT, DEPTH, OUTPUT = "halting_spent", "halting_depth", "halting_output"  # traits of positions and prefix tokens


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
        P, h = state.prefix_count, self.halting.scores(state)
        last = state.note("halting", self.layers - 1, (self.layers, mean_score(state, h)))
        for name, values in self.halting.take_in(state, torch.ones_like(h), self.layers).items():
            last = last.with_trait(name, values)
        output = last.traits[OUTPUT]
        last = last.note("ponder", self.layers - 1, last.traits[DEPTH])
        return last.with_dense(output[:, P:]).replace(prefix=output[:, :P])


def mean_score(state: TokenState, h: Tensor) -> Tensor:
    """Return the mean halting score h (B,P+M) of a layer over all tokens of each image, (B,). Halted tokens count as 0."""
    going = recall(state, SPENT, h, missing=1.0) < 1
    return (h * going).sum(1) / (state.prefix_count + state.positions)


def recall(state: TokenState, name: str, like: Tensor, missing: float = 0.0) -> Tensor:
    """Return a trait of the prefix and the slots (B,P+M,...), or zeros of the shape of `like` before it was first stored."""
    if name not in state.traits:
        return torch.zeros_like(like)
    return torch.cat([state.traits[name][:, : state.prefix_count], state.trait(name, missing)], 1)
