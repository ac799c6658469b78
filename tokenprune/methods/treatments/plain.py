"""The treatments that are a point in the space of memory, candidates, revive and fold, without code of their own."""

from dataclasses import dataclass

from tokenprune.engine.treatment import Treatment
from tokenprune.registry import register


@register("treatment", "remove")
@dataclass(frozen=True)
class Remove(Treatment):
    """Dropped tokens are gone; a dense map shows zeros in their place (the default of the published methods)."""

    memory: str = "forget"


@register("treatment", "preserve")
@dataclass(frozen=True)
class Preserve(Treatment):
    """Dropped tokens keep their last value in the dense map and are not looked at again (SViT section 3.1)."""

    memory: str = "remember"


@register("treatment", "reactivate")
@dataclass(frozen=True)
class Reactivate(Treatment):
    """Dropped tokens keep their last value and may be chosen again at any later decision (SViT section 3.1)."""

    memory: str = "remember"
    candidates: str = "all"


@register("treatment", "last_layer_fusion")
@dataclass(frozen=True)
class LastLayerFusion(Treatment):
    """Dropped tokens return, with their last value, before the last block (Cropr section 3.3); its DropPath is off."""

    memory: str = "remember"
    revive: str = "last"


@register("treatment", "none")
@dataclass(frozen=True)
class NoTreatment(Treatment):
    """Nothing is dropped: the dense model."""

    memory: str = "forget"


@register("treatment", "fuse")
@dataclass(frozen=True)
class Fuse(Treatment):
    """Dropped tokens are summed, weighted by score, into one extra token (EViT Eq. 4); a dense map shows zeros in their place."""

    fold: str = "fuse"


@register("treatment", "merge")
@dataclass(frozen=True)
class Merge(Treatment):
    """Dropped tokens are averaged into a kept one, which speaks for them in a dense map (ToMe section 3)."""

    memory: str = "remember"
    fold: str = "merge"
