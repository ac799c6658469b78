"""The treatment `cross_attention`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokenprune.engine.treatment import Treatment
from tokenprune.methods.fusions.cross_attention import CrossAttention
from tokenprune.registry import register

if TYPE_CHECKING:
    from tokenprune.engine.blocks.family import Family


@register("treatment", "cross_attention")
@dataclass(frozen=True)
class CrossAttend(Treatment):
    """Dropped tokens are gone; behind the last block learned queries, one a position, look at those that stayed (Cropr Table 5).

    proj: one more linear layer behind it, as the table's sizes imply.
    """

    proj: bool = True

    learns: ClassVar[bool] = True

    def module(self, family: "Family", positions: int) -> CrossAttention:
        """Return the block of queries for N `positions`, with the heads of the model."""
        return CrossAttention(family.dim, family.blocks[-1].heads, positions, self.remembers, self.proj)


@register("treatment", "cross_attention_concat")
@dataclass(frozen=True)
class CrossAttendConcat(CrossAttend):
    """Dropped tokens keep their last value; behind the last block learned queries look at them, too (Cropr Table 5)."""

    memory: str = "remember"
