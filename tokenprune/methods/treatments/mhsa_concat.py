"""Defines the treatment `mhsa_concat`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokenprune.engine.treatment import Treatment
from tokenprune.registry import build, register

if TYPE_CHECKING:
    from tokenprune.engine.blocks.family import Family
    from tokenprune.engine.fusion import Fusion


@register("treatment", "mhsa_concat")
@dataclass(frozen=True)
class MhsaConcat(Treatment):
    """Keeps the last value of dropped tokens; one new transformer block behind the last one runs over all tokens (Cropr Table 5).

    Args:
        proj: Whether one more linear layer follows, as the sizes in the table imply.
    """

    memory: str = "remember"
    proj: bool = True

    learns: ClassVar[bool] = True

    def module(self, family: "Family", positions: int) -> "Fusion":
        """Return the block, with as many heads as the model has."""
        return build("fusion", "self_attention", dim=family.dim, heads=family.blocks[-1].heads, proj=self.proj)
