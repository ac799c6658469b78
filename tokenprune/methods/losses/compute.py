"""Defines DiffRate's budget loss, which pulls learned counts of tokens to a number of multiplications."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register

_GIGA = 1e9


@register("loss", "compute")
@dataclass(frozen=True)
class ComputeBudget(Loss):
    """Adds weight * (F - target)^2, F the GMACs of the model at the counts that selectors learn (DiffRate, section 3.3).

    F is what DiffRate counts: 4 T C^2 + 2 T^2 C of the T tokens that enter a block, 8 T' C^2 of the T' that leave it, embedding and head.
    T' = min(T, P, K) of the learned counts; its gradient goes to P and K as it is, whichever is the least, and T is followed from
    block to block. It reads the notes `counts`.

    Args:
        target: GMAC an image, e.g. 2.9, or a share of what the dense model spends, e.g. "65%".
        weight: Weight of the loss; 5 is released.

    Raises:
        InvalidConfig: The target is no number above 0 and no share, or the weight is negative.
    """

    target: float | str = "65%"
    weight: float = 5.0

    def __post_init__(self) -> None:
        problems = [] if self.weight >= 0 else [f"losses.compute.weight is {self.weight}; allowed: 0 and more"]
        try:
            good = float(str(self.target).removesuffix("%")) > 0
        except ValueError:
            good = False
        if not good:
            problems.append(f"losses.compute.target is {self.target!r}; allowed: GMAC an image above 0, e.g. 2.9, or a share: 65%")
        if problems:
            raise InvalidConfig(problems)

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the loss of a forward pass, or None if no count is learned."""
        noted = {block: payload for kind, block, payload in facts.outputs.aux if kind == "counts"}
        if not noted:
            return None
        model = facts.model
        tokens = facts.outputs.state.positions + model.prefix_tokens
        counts = {block: tuple(count + model.prefix_tokens for count in payload) for block, payload in noted.items()}
        size = (model.embed_dim, model.depth, tokens, model.patch_size, model.family.classes)
        return self.weight * (gmac(*size, counts) - self.asked(gmac(*size, {}))).square()

    def asked(self, dense: Tensor) -> float:
        """Return the target in GMAC, given what the dense encoder spends."""
        text = str(self.target)
        return float(text[:-1]) / 100 * float(dense) if text.endswith("%") else float(text)


def gmac(channels: int, depth: int, tokens: int, patch: int, classes: int, counts: Mapping[int, Sequence[Tensor]]) -> Tensor:
    """Return the GMACs of a model as DiffRate counts them.

    Args:
        channels: C.
        depth: Number of blocks.
        tokens: T before the first block, prefix tokens included.
        patch: Side of a patch in pixels.
        classes: Outputs of the head.
        counts: {block: the counts after pruning and after merging, scalars}, prefix tokens included.
    """
    C, left = channels, torch.tensor(float(tokens))
    total = left * C * 3 * patch**2 + C * classes
    for block in range(depth):
        total = total + 4 * left * C * C + 2 * left * left * C
        left = least(left, *counts[block]) if block in counts else left
        total = total + 8 * left * C * C
    return total / _GIGA


def least(left: Tensor, *counts: Tensor) -> Tensor:
    """Return the least of scalars; its gradient goes to each of the `counts` in full, and none to `left`."""
    found = min(float(left.detach()), *(float(count.detach()) for count in counts))
    return found + sum((count - count.detach() for count in counts), torch.zeros_like(counts[0]))
