"""Small models of every class of transformers that the adapters cover: random configurations, 4 blocks, an 8 x 8 grid."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'tokenprune[hf]'")

if not transformers.is_torch_available():
    pytest.skip("transformers takes no torch as old as this one", allow_module_level=True)

DEPTH, SIDE, PATCH = 4, 32, 4
_SIZE = {"hidden_size": 24, "num_hidden_layers": DEPTH, "num_attention_heads": 3, "image_size": SIDE, "patch_size": PATCH}
_TOWER = {**_SIZE, "intermediate_size": 40}
_DINO = {**_SIZE, "mlp_ratio": 2, "layerscale_value": 0.4}
_TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
_WORDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_PAIR = {"vision_config": _TOWER, "text_config": {**_TEXT, **_WORDS, "projection_size": 24}}
_LABELS = {"num_labels": 5}

# Class of the model: class of its configuration, options of that, options of the model.
TOWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ViTModel": ("ViTConfig", _TOWER, {}),
    "ViTModel:no pooler, no bias": ("ViTConfig", {**_TOWER, "qkv_bias": False}, {"add_pooling_layer": False}),
    "DeiTModel": ("DeiTConfig", _TOWER, {}),
    "Dinov2Model": ("Dinov2Config", _DINO, {}),
    "Dinov2Model:SwiGLU": ("Dinov2Config", {**_DINO, "use_swiglu_ffn": True}, {}),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {**_DINO, "num_register_tokens": 3}, {}),
    "CLIPVisionModel": ("CLIPVisionConfig", _TOWER, {}),
    "SiglipVisionModel": ("SiglipVisionConfig", _TOWER, {}),
    "SiglipVisionModel:no head": ("SiglipVisionConfig", {**_TOWER, "vision_use_head": False}, {}),
}
WHOLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ViTForImageClassification": ("ViTConfig", {**_TOWER, **_LABELS}, {}),
    "DeiTForImageClassification": ("DeiTConfig", {**_TOWER, **_LABELS}, {}),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", {**_TOWER, **_LABELS}, {}),
    "Dinov2ForImageClassification": ("Dinov2Config", {**_DINO, **_LABELS}, {}),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", {**_DINO, **_LABELS}, {}),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**_TOWER, "projection_dim": 16}, {}),
    "CLIPForImageClassification": ("CLIPConfig", {**_PAIR, **_LABELS}, {}),
    "SiglipForImageClassification": ("SiglipConfig", {**_PAIR, **_LABELS}, {}),
}
PAIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "CLIPModel": ("CLIPConfig", {**_PAIR, "projection_dim": 16}, {}),
    "SiglipModel": ("SiglipConfig", _PAIR, {}),
}
EVERY = {**TOWERS, **WHOLES, **PAIRS}
FAMILIES = ("ViTModel", "DeiTForImageClassification", "Dinov2Model:SwiGLU", "Dinov2WithRegistersForImageClassification", "CLIPVisionModel",
            "SiglipVisionModel")  # fmt: skip


def small(label: str, attention: str = "sdpa", **more: Any) -> nn.Module:
    """Return a seeded small model in eval mode whose biases, norms and scales are not trivial and whose attention is not flat."""
    config, options, own = EVERY[label]
    torch.manual_seed(0)
    made = getattr(transformers, config)(**{**options, **more})
    made._attn_implementation = attention
    model = getattr(transformers, label.split(":")[0])(made, **own)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() < 2:
                p.add_(0.1 * torch.randn_like(p))
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                p.normal_(std=0.5)
            elif p.dim() == 2:
                p.normal_(std=0.15)
    return model.eval()


def class_token(label: str) -> str:
    """Return the source of the class token that selectors read: SigLIP has none of its own."""
    return "mean" if label.startswith("Siglip") else "learned"


def images(count: int = 2, side: int = SIDE) -> Tensor:
    """Return seeded images that differ in contrast."""
    contrast = torch.linspace(0.3, 2.0, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * contrast


def inputs(label: str, x: Tensor) -> dict[str, Tensor]:
    """Return what a model's forward takes for images: text, too, where it has a text tower."""
    words = torch.tensor([[1, 5, 7, 2], [1, 9, 3, 2], [1, 4, 4, 2]])
    return {"pixel_values": x, **({"input_ids": words} if label in PAIRS else {})}
