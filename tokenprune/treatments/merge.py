"""The treatment `merge`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "merge")
@dataclass(frozen=True)
class Merge(Treatment):
    """Dropped tokens are averaged into a kept one, which speaks for them in a dense map (ToMe section 3)."""

    memory: str = "remember"
    fold: str = "merge"
