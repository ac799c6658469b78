"""Defines the treatments `cross_attention` and `cross_attention_concat`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokenprune.engine.treatment import Treatment
from tokenprune.registry import build, register

if TYPE_CHECKING:
    from tokenprune.engine.blocks.family import Family
    from tokenprune.engine.fusion import Fusion


@register("treatment", "cross_attention")
@dataclass(frozen=True)
class CrossAttend(Treatment):
    """Removes dropped tokens; behind the last block learned queries, one a position, attend to the tokens that stayed (Cropr Table 5).

    Args:
        proj: Whether one more linear layer follows, as the sizes in the table imply.
    """

    proj: bool = True

    learns: ClassVar[bool] = True

    def module(self, family: "Family", positions: int) -> "Fusion":
        """Return the block of queries for N `positions`, with as many heads as the model has."""
        heads, reads_all = family.blocks[-1].heads, self.remembers
        options = {"dim": family.dim, "heads": heads, "positions": positions, "everything": reads_all, "proj": self.proj}
        return build("fusion", "cross_attention", **options)


@register("treatment", "cross_attention_concat")
@dataclass(frozen=True)
class CrossAttendConcat(CrossAttend):
    """Keeps the last value of dropped tokens; behind the last block learned queries attend to these, too (Cropr Table 5)."""

    memory: str = "remember"
