"""Block adapters: the only code that knows how a transformer block is built inside."""

from torch import nn

from tokenprune.blocks.timm_vit import TimmViT
from tokenprune.errors import UnsupportedBackbone

FAMILIES = (TimmViT,)


def adapt(model: nn.Module) -> TimmViT:
    """Return the family adapter of a model.

    Raises:
        UnsupportedBackbone: no family knows the model; the message names what stands in the way.
    """
    reasons = [family.refusal(model) for family in FAMILIES]
    for family, reason in zip(FAMILIES, reasons, strict=True):
        if reason is None:
            return family(model)
    raise UnsupportedBackbone(f"{type(model).__name__} cannot be pruned: {'; '.join(str(r) for r in reasons)}")
