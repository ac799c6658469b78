"""The treatment `mhsa_concat`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokenprune.engine.treatment import Treatment
from tokenprune.methods.fusions.self_attention import SelfAttention
from tokenprune.registry import register

if TYPE_CHECKING:
    from tokenprune.engine.blocks.family import Family


@register("treatment", "mhsa_concat")
@dataclass(frozen=True)
class MhsaConcat(Treatment):
    """Dropped tokens keep their last value; one fresh transformer block behind the last one runs over all (Cropr Table 5).

    proj: one more linear layer behind it, as the table's sizes imply.
    """

    memory: str = "remember"
    proj: bool = True

    learns: ClassVar[bool] = True

    def module(self, family: "Family", positions: int) -> SelfAttention:
        """Return the block, with the heads of the model."""
        return SelfAttention(family.dim, family.blocks[-1].heads, self.proj)
