"""The treatment `fuse`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.base import Treatment


@register("treatment", "fuse")
@dataclass(frozen=True)
class Fuse(Treatment):
    """Dropped tokens are summed, weighted by score, into one extra token (EViT Eq. 4); a dense map shows zeros in their place."""

    fold: str = "fuse"
