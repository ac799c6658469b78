"""Block adapters: the only code that knows how a transformer block is built inside."""

from torch import nn

from tokenprune.engine.blocks.family import Family
from tokenprune.engine.blocks.refusals import model_obstacle
from tokenprune.engine.blocks.timm_eva import TimmEva
from tokenprune.engine.blocks.timm_naflex import TimmNaFlex
from tokenprune.engine.blocks.timm_vit import TimmViT
from tokenprune.errors import UnsupportedBackbone

FAMILIES: tuple[type[Family], ...] = (TimmViT, TimmEva, TimmNaFlex)


def adapt(model: nn.Module) -> Family:
    """Return the family adapter of a model.

    Raises:
        UnsupportedBackbone: no family knows the model; the message names what stands in the way.
    """
    family = next((f for f in FAMILIES if isinstance(model, f.kind)), None)
    reason = model_obstacle(model, [f.kind for f in FAMILIES]) if family is None else family.refusal(model)
    if family is None or reason is not None:
        remedy = "Take a plain ViT, DeiT, EVA, DINOv3 or NaFlex model of timm"
        raise UnsupportedBackbone(f"{type(model).__name__} cannot be pruned: {reason}. {remedy}")
    return family(model)
