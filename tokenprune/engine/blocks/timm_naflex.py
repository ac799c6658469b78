"""Adapter for timm's NaFlexVit, run on images of one size; batches of ready-made patches (NaFlex mode) are not taken."""

from timm.models.naflexvit import NaFlexVit
from torch import Tensor

from tokenprune.engine.blocks.timm_eva import EvaBlock
from tokenprune.engine.blocks.timm_family import TimmFamily
from tokenprune.engine.blocks.timm_vit import TimmBlock

_SIDE = 224  # pixels of "its own" images for a model that has no size


class TimmNaFlex(TimmFamily):
    """timm's NaFlexVit: position codes interpolated to any grid; blocks of ViT, or of Eva where it is rotary."""

    kind, adapters = NaFlexVit, (TimmBlock, EvaBlock)
    stem_name = "embeds"

    @property
    def own_positions(self) -> int:
        """Return N of the grid that the position codes were made for, or of 224 px."""
        height, width = self.stem.pos_embed_grid_size or self.positions(_SIDE, _SIDE)
        return height * width

    def embedded(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return prefix and patch tokens (B,P+N,C) and the rotary table of the images' grid."""
        m = self.model
        x, grid = m.embeds(images)
        return m.norm_pre(x), None if m.rope is None else m.rope.get_embed(shape=grid)
