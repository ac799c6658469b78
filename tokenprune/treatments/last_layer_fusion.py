"""The treatment `last_layer_fusion`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "last_layer_fusion")
@dataclass(frozen=True)
class LastLayerFusion(Treatment):
    """Dropped tokens return, with their last value, before the last block (Cropr section 3.3); its DropPath is off."""

    memory: str = "remember"
    revive: str = "last"
