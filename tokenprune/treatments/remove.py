"""The treatment `remove`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "remove")
@dataclass(frozen=True)
class Remove(Treatment):
    """Dropped tokens are gone; a dense map shows zeros in their place (the default of the published methods)."""

    memory: str = "forget"
