"""Resizes position codes by plain bicubic interpolation, as the code of DeiT, MAE, ViT-Adapter and SViT does.

timm filters the codes as well (antialias=True), which also changes the kernel (a = -0.5 in place of -0.75), so that the results differ
upwards and downwards. A detector that was trained with one of them needs the same one at test time: at 1333 x 800 px the features of
ViT-Adapter differ by 0.8 to 4.7.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.errors import InvalidConfig

RESAMPLINGS = ("antialias", "bicubic")
_PREFIX = ("cls_token", "dist_token", "reg_token")


def resize_codes(codes: Tensor, before: Sequence[int], after: Sequence[int], plain: bool = True) -> Tensor:
    """Return position codes of another grid.

    Args:
        codes: Codes without those of prefix tokens, in raster order, (1,H*W,C).
        before: Their grid (H,W).
        after: The wanted grid (H',W').
        plain: False filters them, as timm does.

    Returns:
        Codes (1,H'*W',C).
    """
    if tuple(before) == tuple(after):
        return codes
    if not plain:
        return resample_abs_pos_embed(codes, list(after), list(before), num_prefix_tokens=0)
    maps = codes.float().unflatten(1, tuple(before)).permute(0, 3, 1, 2)
    return F.interpolate(maps, tuple(after), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2).to(codes.dtype)


class PlainCodes:
    """Adds the position codes of a model of timm, resized by plain bicubic interpolation, in place of timm's `_pos_embed`."""

    def _coded(self: Any, x: Tensor) -> Tensor:
        """Return prefix and patch tokens (B,P+N,C) of patches (B,H,W,C), position codes added."""
        B, H, W, _ = x.shape
        prefix = [token.expand(B, -1, -1) for name in _PREFIX if (token := getattr(self, name, None)) is not None]
        tokens = x.flatten(1, 2)
        if self.pos_embed is not None:
            own = 0 if self.no_embed_class else self.num_prefix_tokens
            tokens = tokens + resize_codes(self.pos_embed[:, own:], self.patch_embed.grid_size, (H, W))
            prefix = [torch.cat(prefix, 1) + self.pos_embed[:, :own]] if own else prefix
        return self.pos_drop(torch.cat([*prefix, tokens], 1))


class PlainViT(PlainCodes, VisionTransformer):
    """A VisionTransformer of timm with PlainCodes."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        return self._coded(x)


class PlainDistilled(PlainCodes, VisionTransformerDistilled):
    """A distilled DeiT of timm with PlainCodes."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        return self._coded(x)


class PlainEva(PlainCodes, Eva):
    """An Eva of timm with PlainCodes."""

    def _pos_embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._coded(x), None if self.rope is None else self.rope.get_embed(shape=x.shape[1:3])


_PLAIN: dict[type, type] = {VisionTransformer: PlainViT, VisionTransformerDistilled: PlainDistilled, Eva: PlainEva}


def resize_plainly(vit: nn.Module) -> None:
    """Make a model of timm, built with `dynamic_img_size`, resize its position codes by plain bicubic interpolation from now on.

    Raises:
        InvalidConfig: Its class has other position codes.
    """
    if type(vit) not in _PLAIN:
        allowed = ", ".join(kind.__name__ for kind in _PLAIN)
        raise InvalidConfig(f"backbone.pos_resample is 'bicubic', and the model is a {type(vit).__name__}; allowed with it: {allowed}")
    vit.__class__ = _PLAIN[type(vit)]
