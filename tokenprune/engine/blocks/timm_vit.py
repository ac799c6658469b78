"""Adapter for timm's plain Vision Transformer (`vision_transformer.Block` with `Attention`): ViT, DeiT, hybrids and relatives."""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block, VisionTransformer  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.engine.blocks.module_hooks import HookCall, passed
from tokenprune.engine.blocks.timm_family import TimmFamily


class TimmBlock(BaseBlock):
    """timm's pre-norm `Block`."""

    kind, attentions = Block, (Attention,)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v (B,h,T,d) of one layer for all three."""
        attn, (B, T, _) = self.block.attn, x.shape
        return attn.qkv(x).reshape(B, T, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def some(self, x: Tensor, first: int, last: int) -> Sequence[Tensor]:
        """Return some of q, k, v from the rows of the one layer that make them; a layer of another kind (quantised, low-rank) makes all."""
        attn, (B, T, _), layer = self.block.attn, x.shape, self.block.attn.qkv
        if type(layer) is not nn.Linear or HookCall.of(layer) is not None:
            return self.qkv(x)[first:last]
        weight = layer.weight.unflatten(0, (3, -1))[first:last].flatten(0, 1)
        bias = None if layer.bias is None else layer.bias.unflatten(0, (3, -1))[first:last].flatten(0, 1)
        return F.linear(x, weight, bias).reshape(B, T, last - first, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch through its LayerScale module."""
        return passed(self.block.ls1 if branch == 1 else self.block.ls2, x)


class TimmViT(TimmFamily):
    """timm's VisionTransformer and its distilled DeiT, whose prefix is class and distillation token."""

    kind, adapters = VisionTransformer, (TimmBlock,)

    def embedded(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, None]:
        """Return prefix and patch tokens (B,P+N,C) and no rotary table."""
        m = self.model
        return m.norm_pre(m._pos_embed(m.patch_embed(images))), None
