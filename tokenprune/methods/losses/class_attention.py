"""Defines the loss that teaches the class token where objects are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.indexing import put
from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.engine.observation import Observation
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register


@register("loss", "class_attention")
@dataclass(frozen=True)
class ClassAttention(Loss):
    """Adds weight * KL(objects || class attention), a mean over the blocks listed and over images that hold an object.

    `objects` spreads evenly over what objects cover; class attention is the mean over heads of the class token's softmax, over patches
    alone. It supervises selectors that read the class token, so rows of a table may be compared only if all start from weights that were
    taught alike. No paper here has it.

    Args:
        weight: Weight of the term.
        blocks: 0-based blocks; [] for all.

    Raises:
        InvalidConfig: The weight is negative, or a block is no whole number >= 0.
    """

    weight: float = 0.1
    blocks: tuple[int, ...] = ()

    needs = ("foreground",)

    def __post_init__(self) -> None:
        """Check the options."""
        object.__setattr__(self, "blocks", tuple(self.blocks))
        problems = [] if self.weight >= 0 else [f"losses.class_attention.weight is {self.weight}, allowed are 0 and more"]
        if any(not isinstance(block, int) or block < 0 for block in self.blocks):
            problems.append(f"losses.class_attention.blocks is {list(self.blocks)}, allowed are blocks from 0 on, [] for all")
        if problems:
            raise InvalidConfig(problems)

    def observe(self, seen: Observation) -> Tensor | None:
        """Return the class token's attention to each position, (B,N), of the blocks that are taught."""
        if not seen.state.prefix_count or (self.blocks and seen.block not in self.blocks):
            return None
        row = seen.cls_row().float().mean(1)
        nothing = row.new_zeros(len(row), seen.state.positions)
        return put(nothing, seen.state.index.where(seen.live, -1), row)

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the weighted divergence; None where no block was observed."""
        (objects,) = facts.given(self.name, *self.needs)
        rows = facts.of(self.name)
        if not rows:
            return None
        held = objects.sum(1) > 0
        wanted = objects / objects.sum(1, keepdim=True).clamp(min=1e-6)
        attended = torch.stack(rows)  # (L,B,N)
        attended = (attended / attended.sum(-1, keepdim=True).clamp(min=1e-6)).clamp(min=1e-6)
        far = (torch.xlogy(wanted, wanted) - wanted * attended.log()).sum(-1).mean(0)  # (B,)
        return self.weight * (far * held).sum() / held.sum().clamp(min=1)
