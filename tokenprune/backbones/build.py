"""Builds the model of the `backbone` group: a ViT of timm, or one of transformers from a folder."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from tokenprune.backbones import vit
from tokenprune.backbones.hf import HfConfig, build_hf, read_hf
from tokenprune.engine.blocks import adapt
from tokenprune.utils.hf_folder import is_hf


def build_backbone(cfg: Mapping[str, Any], num_classes: int = 0) -> nn.Module:
    """Build the model of the `backbone` group with random weights, or those of its `pretrained`.

    Args:
        cfg: The group.
        num_classes: Outputs of the classification head; 0 for no head.

    Raises:
        InvalidConfig, UnsupportedBackbone, CheckpointMismatch, MissingDependency: See `build_vit` and `build_hf`.
    """
    return build_hf(cfg, num_classes) if is_hf(cfg) else vit.build_vit(cfg, num_classes)


def depth(cfg: Mapping[str, Any]) -> int:
    """Return L, the number of blocks. A model by name or folder has its own number, whatever `depth` says.

    Raises:
        InvalidConfig, UnsupportedBackbone, MissingDependency: See `build_backbone`.
    """
    return _blocks_of(read_hf(cfg)) if is_hf(cfg) else vit.depth(cfg)


@lru_cache(maxsize=32)
def _blocks_of(cfg: HfConfig) -> int:
    with torch.device("meta"):
        return len(adapt(build_hf(cfg)).blocks)
