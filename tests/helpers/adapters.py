"""A small ViT-Adapter around the tiny pruned ViT of the pairings, and adapters with nothing left at its initial zero."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers import pairings
from tokenprune.backbones.pyramid import SCALES
from tokenprune.backbones.vit_adapter import AdapterConfig, ViTAdapter

DEPTH, SIDE = 8, 64  # 64 positions of 8 px
PLAN = {"name": "stages", "blocks": [1, 3, 4], "keep_rate": 0.7}
EVERYTHING = {"name": "stages", "blocks": [1, 3, 4], "keep_rate": 1.0}


def plain_vit(**options: Any) -> nn.Module:
    """A seeded ViT of 8 blocks and 64 positions of 8 px without a final norm."""
    vit = pairings.tiny_vit(**{"depth": DEPTH, "img_size": SIDE, "patch_size": 8, **options})
    vit.norm = nn.Identity()
    return vit


def adapter(
    selector: Any = None, treatment: Any = None, schedule: Any = PLAN, execution: str = "auto", scales: tuple = SCALES, **options: Any
) -> ViTAdapter:
    """A seeded ViTAdapter in eval mode whose injectors write and whose offsets depend on the query."""
    pruned = pairings.pruned(selector, treatment, None if selector is None else schedule, execution, vit=plain_vit(), **options)
    torch.manual_seed(4)
    return awake(ViTAdapter(pruned, AdapterConfig(conv_dim=4, heads=3, points=2), scales, drop_path=0.1)).eval()


def awake(adapter: ViTAdapter, strength: float = 0.5) -> ViTAdapter:
    """Let injectors write, offsets and weights depend on the query, and norms have a bias: all of it starts at zero."""
    with torch.no_grad():
        for name, p in adapter.named_parameters():
            if name.endswith("gamma"):
                p.normal_(std=strength)
            elif name.endswith(("offsets.weight", "weights.weight")) or ("norm" in name and name.endswith("bias")):
                p.normal_(std=0.1) if not name.startswith("pruned.") else None
    return adapter


def images(count: int = 3) -> Tensor:
    """Seeded images that differ in contrast."""
    return pairings.images(count, SIDE)
