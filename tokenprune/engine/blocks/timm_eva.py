"""Adapter for timm's Eva models: EVA, EVA-02, DINOv3, Perception Encoder, rotary ViTs, Sapiens 2."""

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope  # pyright: ignore[reportPrivateImportUsage] its module differs between versions
from timm.models.eva import Eva, EvaAttention
from timm.models.eva import EvaBlock as _Block
from torch import Tensor, nn

from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.engine.blocks.module_hooks import HookCall
from tokenprune.engine.blocks.timm_family import TimmFamily


class EvaBlock(BaseBlock):
    """timm's pre-norm `EvaBlock`: rotated queries and keys, no key bias or grouped keys, SwiGLU, norms inside attention and MLP."""

    kind, attentions = _Block, (EvaAttention, AttentionRope)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B,h,T,d), k, v (B,h',T,d): one layer with biases of its own, or three layers."""
        attn, (B, T, _) = self.block.attn, x.shape
        if attn.qkv is not None:
            q, k, v = self._fused(x).reshape(B, T, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        d = attn.q_proj.out_features // attn.num_heads
        q, k, v = (layer(x).reshape(B, T, -1, d).transpose(1, 2) for layer in (attn.q_proj, attn.k_proj, attn.v_proj))
        return q, k, v

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch times gamma."""
        gamma = self.block.gamma_1 if branch == 1 else self.block.gamma_2
        return x if gamma is None else gamma * x

    def _fused(self, x: Tensor) -> Tensor:
        attn = self.block.attn
        if getattr(attn, "q_bias", None) is None:
            return attn.qkv(x)
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        if type(attn.qkv) is not nn.Linear or HookCall.of(attn.qkv) is not None:  # a layer of another kind (quantised, low-rank) is called
            return attn.qkv(x) + bias
        return attn.qkv(x) + bias if attn.qkv_bias_separate else F.linear(x, attn.qkv.weight, bias)


class TimmEva(TimmFamily):
    """timm's Eva: absolute and rotary position codes, the latter one table for all blocks or one for each block and head (`mixed`).

    Its own mean is of the patch tokens alone; with a `pool_include_prefix` set on the model, `classify` counts the prefix, too.
    """

    kind, adapters = Eva, (EvaBlock,)
    heeds_prefix = False

    def embedded(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return prefix and patch tokens (B,P+N,C) and the rotary table of the images' grid, made as timm makes it."""
        m = self.model
        x, rope = m._pos_embed(m.patch_embed(images))
        return m.norm_pre(x), rope
