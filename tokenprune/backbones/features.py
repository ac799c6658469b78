"""Builds the modules between images and the heads of a dense task: maps around a pruned encoder, then their levels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenprune.backbones.maps import DenseMap, EncoderMaps
from tokenprune.backbones.pyramid import SCALES, FeaturePyramid
from tokenprune.backbones.vit import VitConfig, read_backbone
from tokenprune.backbones.vit_adapter import AdapterPyramid, ViTAdapter

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT


def build_features(
    pruned: "PrunedViT",
    backbone: VitConfig | Mapping[str, Any],
    scales: Sequence[float] = SCALES,
    channels: int = 256,
    top_level: bool = True,
) -> tuple[EncoderMaps, FeaturePyramid | AdapterPyramid]:
    """Return the two modules whose composition takes images (B,3,H,W) to {"p2": (B,channels,H/4,W/4), ...}, fine to coarse.

    Args:
        pruned: The encoder; the first module owns it.
        backbone: The `backbone` group. With an adapter the modules are a ViT-Adapter and a feature pyramid network; without one they are
            the encoder's map and ViTDet's simple feature pyramid.
        scales: Some of {4, 2, 1, 0.5}; the stride of a level is patch size / scale.
        channels: Channels of every level.
        top_level: Whether to add one more level: the coarsest one subsampled by 2.

    Raises:
        InvalidConfig: The scales, the patch size or the depth do not allow it.
    """
    cfg = read_backbone(backbone)
    dim, patch = pruned.embed_dim, pruned.patch_size
    if cfg.adapter is None:
        return DenseMap(pruned), FeaturePyramid(dim, patch, scales, channels, top_level)
    adapter = ViTAdapter(pruned, cfg.adapter, scales, drop_path=cfg.drop_path)
    return adapter, AdapterPyramid(dim, patch, scales, channels, top_level)
