"""Defines the treatments without code of their own: each is a point in the space of memory, candidates, revive and fold."""

from dataclasses import dataclass

from tokenprune.engine.treatment import Treatment
from tokenprune.registry import register


@register("treatment", "remove")
@dataclass(frozen=True)
class Remove(Treatment):
    """Removes dropped tokens; a dense map shows zeros in their place (the default of the published methods)."""

    memory: str = "forget"


@register("treatment", "preserve")
@dataclass(frozen=True)
class Preserve(Treatment):
    """Keeps the last value of dropped tokens in the dense map, and no later decision looks at them again (SViT section 3.1)."""

    memory: str = "remember"


@register("treatment", "reactivate")
@dataclass(frozen=True)
class Reactivate(Treatment):
    """Keeps the last value of dropped tokens, which may be chosen again at any later decision (SViT section 3.1)."""

    memory: str = "remember"
    candidates: str = "all"


@register("treatment", "last_layer_fusion")
@dataclass(frozen=True)
class LastLayerFusion(Treatment):
    """Brings dropped tokens back, with their last value, before the last block, whose DropPath is off (Cropr section 3.3)."""

    memory: str = "remember"
    revive: str = "last"


@register("treatment", "none")
@dataclass(frozen=True)
class NoTreatment(Treatment):
    """Drops nothing: the dense model."""

    memory: str = "forget"


@register("treatment", "fuse")
@dataclass(frozen=True)
class Fuse(Treatment):
    """Sums dropped tokens, weighted by score, into one extra token (EViT Eq. 4); a dense map shows zeros in their place."""

    fold: str = "fuse"


@register("treatment", "merge")
@dataclass(frozen=True)
class Merge(Treatment):
    """Averages dropped tokens into a kept one, whose value a dense map shows in their place (ToMe section 3)."""

    memory: str = "remember"
    fold: str = "merge"
