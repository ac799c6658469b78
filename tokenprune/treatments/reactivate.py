"""The treatment `reactivate`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "reactivate")
@dataclass(frozen=True)
class Reactivate(Treatment):
    """Dropped tokens keep their last value and may be chosen again at any later decision (SViT section 3.1)."""

    memory: str = "remember"
    candidates: str = "all"
