"""The treatment `none`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "none")
@dataclass(frozen=True)
class NoTreatment(Treatment):
    """Nothing is dropped: the dense model."""

    memory: str = "forget"
