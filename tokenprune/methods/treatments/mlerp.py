"""Defines ToFu's treatment, which drops tokens in early blocks and merges them with their norm kept in later ones."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.state import TokenState
from tokenprune.engine.treatment import Treatment, merge
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import register

VARIANTS = ("fixed", "released")


@register("treatment", "mlerp")
@dataclass(frozen=True)
class Mlerp(Treatment):
    """Drops tokens before block `start`; from there on merges them into a mean that has the norm of its longest token (ToFu, WACV 2024).

    For a target y_k and n tokens y_j that come to it: m = (y_k + sum_j y_j) / (1 + n), the new token is m / ||m|| * max(||y_k||, ||y_j||).
    Sizes do not weigh the mean. A target to which nobody comes stays as it is. A position that was dropped before `start` shows zeros in a
    dense map.

    Args:
        start: First block that merges; null for depth // 2 + 1, the released choice. The paper chooses by a layer's linearity.
        variant: `fixed`, or `released`, which divides by the norm that the target had before, so that the new token is shorter.
        memory: As in `merge`.
        fold: `merge`.
        proportional: Whether log(mass) is added to the attention logits; ToFu has no sizes.

    Raises:
        InvalidConfig: The variant is unknown, or `start` is no block number.
    """

    memory: str = "remember"
    fold: str = "merge"
    proportional: bool = False
    start: int | None = None
    variant: str = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise InvalidConfig(f"treatment mlerp: variant is {self.variant!r}; allowed: {', '.join(VARIANTS)}")
        if self.start is not None and (isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 0):
            raise InvalidConfig(f"treatment mlerp: start is {self.start!r}; allowed: null or a block number, 0 and more")

    def at(self, block: int, depth: int) -> Treatment:
        """Return this treatment, or in early blocks one that drops and forgets."""
        first = depth // 2 + 1 if self.start is None else self.start
        return self if block >= first else replace(self, fold="none", memory="forget")

    def merged(self, state: TokenState, dropped: Tensor | None, decision: Decision) -> TokenState:
        """Return the state with means of the norm of their longest token."""
        plain = merge(state, dropped, decision.replace(weight=torch.ones_like(state.tokens[..., 0])))
        if plain.groups is None:
            raise TokenPruneError("merging has not said what it merged")
        gone, into, moves, total, _ = plain.groups
        before = state.tokens.norm(dim=-1)
        longest = before.scatter_reduce(1, into, before.gather(1, gone) * moves, "amax")
        now = plain.tokens.norm(dim=-1) if self.variant == "fixed" else before
        scale = (longest / now.clamp(min=torch.finfo(now.dtype).tiny)).where(total > 1, 1.0)  # where somebody came
        return plain.with_sequence(plain.sequence() * F.pad(scale, (state.prefix_count, 0), value=1.0).unsqueeze(-1))
