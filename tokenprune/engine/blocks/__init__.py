"""Block adapters: the only code that knows how a transformer block is built inside."""

from importlib import import_module
from importlib.metadata import version

from torch import nn

from tokenprune.engine.blocks.family import Family
from tokenprune.engine.blocks.refusals import model_obstacle
from tokenprune.engine.blocks.timm_eva import TimmEva
from tokenprune.engine.blocks.timm_naflex import TimmNaFlex
from tokenprune.engine.blocks.timm_vit import TimmViT
from tokenprune.errors import UnsupportedBackbone

FAMILIES: tuple[type[Family], ...] = (TimmViT, TimmEva, TimmNaFlex)
LEAST = (5, 18)  # version of transformers from which on all these models have layers of their own for queries, keys and values
_REMEDY = "Take a plain ViT, DeiT, EVA, DINOv3 or NaFlex model of timm, or a ViT, DeiT, DINOv2, CLIP or SigLIP model of transformers"


def adapt(model: nn.Module) -> Family:
    """Return the family adapter of a model.

    Raises:
        UnsupportedBackbone: no family knows the model; the message names what stands in the way.
    """
    families = families_for(model)
    family = next((f for f in families if f.takes(model)), None)
    reason = model_obstacle(model, [f.kind for f in families]) if family is None else family.refusal(model)
    if family is None or reason is not None:
        raise UnsupportedBackbone(f"{type(model).__name__} cannot be pruned: {reason}. {_REMEDY}")
    return family(model)


def families_for(model: nn.Module) -> tuple[type[Family], ...]:
    """Return the families of the library that a model is from; those of transformers are read only for a model of it.

    Raises:
        UnsupportedBackbone: The model is of a transformers that is too old: its blocks have other parts.
    """
    if not of_transformers(model):
        return FAMILIES
    installed = version("transformers")
    if tuple(int(part) for part in installed.split(".")[:2]) < LEAST:
        raise UnsupportedBackbone(
            f"{type(model).__name__} cannot be pruned: its blocks in transformers {installed} have other parts than the adapters know;"
            f" allowed: {LEAST[0]}.{LEAST[1]} and later, pip install -U 'tokenprune[hf]'"
        )
    return import_module("tokenprune.engine.blocks.hf_models").FAMILIES


def of_transformers(model: nn.Module) -> bool:
    """Tell whether a model is one of Hugging Face's transformers."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)
