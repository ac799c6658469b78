"""The treatment `preserve`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "preserve")
@dataclass(frozen=True)
class Preserve(Treatment):
    """Dropped tokens keep their last value in the dense map and are not looked at again (SViT section 3.1)."""

    memory: str = "remember"
