"""One small model of every family that the adapters cover: timm's own options, narrow, three blocks, a 4 x 4 grid."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

DEPTH = 3
_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": DEPTH, "num_heads": 4, "num_classes": 7}
_HYBRID = {k: v for k, v in _SIZE.items() if k not in ("patch_size", "img_size")} | {"img_size": 128}
_NAFLEX = {k: v for k, v in _SIZE.items() if k != "img_size"} | {"pos_embed_grid_size": (4, 4)}

PLAIN: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {"init_values": 0.3},  # LayerScale, positions without class
    "vit_giant_patch14_reg4_dinov2": {"init_values": 0.3},  # registers, SwiGLU in one layer
    "vit_base_patch16_clip_224": {},  # norm in front
    "vit_base_patch16_siglip_224": {},  # attention pooling, no class token
    "vit_base_patch16_siglip_gap_224": {},
    "vit_tiny_patch16_224:norm of q and k": {"qk_norm": True},
    "aimv2_1b_patch14_224": {},  # RmsNorm, SwiGLU in three layers
    "beit3_base_patch16_224": {},  # norms inside attention and MLP
    "vit_tiny_r_s16_p8_224": _HYBRID,
    "naflexvit_base_patch16_gap": _NAFLEX,
    "naflexvit_base_patch16_map": _NAFLEX,
    "naflexvit_base_patch16_radio_v3": _NAFLEX,
}
ROTARY: dict[str, dict[str, Any]] = {
    "eva02_tiny_patch14_224": {},  # SwiGLU in one layer
    "eva02_base_patch14_224": {},  # three layers for q, k, v; norm in the MLP
    "eva02_base_patch16_clip_224": {},  # norm in the attention
    "vit_betwixt_patch16_rope_reg4_gap_256": {"init_values": 0.3},
    "vit_base_patch16_rope_224": {},
    "vit_base_patch16_rope_mixed_ape_224": {},  # a table for each block and head
    "vit_small_patch16_dinov3": {"init_values": 0.3},  # halves turned, registers
    "vit_small_patch16_dinov3_qkvb": {"init_values": 0.3},
    "vit_pe_core_tiny_patch16_384": {},  # attention pooling over the prefix, too
    "vit_pe_spatial_tiny_patch16_512": {"init_values": 0.3},
    "vit_base_patch16_sapiens2": {"num_kv_heads": (4, 2, 1)},  # grouped keys, LayerScale on the attention only
    "vit_base_patch16_rope_224:mrope": {"rope_type": "mrope", "rope_grid_indexing": "ij", "rope_rotate_half": True},
    "naflexvit_base_patch16_gap:mixed": {**_NAFLEX, "rope_type": "mixed"},
    "naflexvit_base_patch16_gap:gated": {**_NAFLEX, "rope_type": "axial", "attn_gated": True},
}
UNTURNED: dict[str, dict[str, Any]] = {"eva_large_patch14_196": {}}  # of the Eva class, without rotation
EVERY = {**PLAIN, **UNTURNED, **ROTARY}


def small(label: str, **more: Any) -> nn.Module:
    """Return a seeded small model in eval mode whose biases, norms and scales are not trivial and whose attention is not flat."""
    name = label.split(":")[0]
    own = {} if name.startswith("naflex") or "_r_s16" in name else _SIZE
    torch.manual_seed(0)
    return awake(timm.create_model(name, **{**own, **EVERY[label], **more})).eval()


def awake(model: nn.Module) -> nn.Module:
    """Move what starts at zero or one, and sharpen the attention."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() < 2:
                p.add_(0.1 * torch.randn_like(p))
            elif name.endswith(("qkv.weight", "q_proj.weight", "k_proj.weight")):
                p.mul_(6.0)
            elif "head" in name:
                p.normal_(std=0.1)
    return model


def images(model: nn.Module, count: int = 2) -> Tensor:
    """Return seeded images of the model's own size that differ in contrast."""
    side = 128 if type(getattr(model, "patch_embed", None)).__name__ == "HybridEmbed" else 32
    contrast = torch.linspace(0.3, 2.0, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * contrast
