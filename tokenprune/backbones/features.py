"""What stands between images and the heads of a dense task: maps around a pruned encoder, then their levels."""

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
        pruned: the encoder; the first module owns it.
        backbone: the `backbone` group. With an adapter: ViT-Adapter and a feature pyramid network; without: the encoder's map and
            ViTDet's simple feature pyramid.
        scales: of {4, 2, 1, 0.5}; level = patch size / scale. top_level: one more level, the coarsest one subsampled by 2.

    Raises:
        InvalidConfig: scales, patch size or depth that do not allow it.
    """
    cfg = read_backbone(backbone)
    dim, patch = pruned.embed_dim, pruned.patch_size
    if cfg.adapter is None:
        return DenseMap(pruned), FeaturePyramid(dim, patch, scales, channels, top_level)
    adapter = ViTAdapter(pruned, cfg.adapter, scales, drop_path=cfg.drop_path)
    return adapter, AdapterPyramid(dim, patch, scales, channels, top_level)
