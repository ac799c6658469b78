"""Blocks of Hugging Face's transformers: ViT, DeiT, DINOv2, CLIP and SigLIP, whose parts have other names than timm's."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip import modeling_clip as clip
from transformers.models.deit import modeling_deit as deit
from transformers.models.dinov2 import modeling_dinov2 as dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registers
from transformers.models.siglip import modeling_siglip as siglip
from transformers.models.vit import modeling_vit as vit

from tokenprune.engine.blocks.base import BaseBlock, Projection, policy_attention, unknown_parts
from tokenprune.engine.blocks.module_hooks import HookCall
from tokenprune.engine.blocks.refusals import part_obstacle
from tokenprune.engine.state import TokenState

_NOTHING = nn.Identity()  # in the place of a part that these blocks do not have
_PATCHED = "its {} has a forward that was set on the instance, which would be passed over; set it on the parts inside"


class Renamed:
    """A module whose parts are found under timm's names; what has no other name is the module's own.

    Args:
        module: The module, held by reference.
        names: {timm's name: the module's own, or None for a part that does nothing here}.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str | None]) -> None:
        self._module, self._names = module, names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy is made there is no module yet
            raise AttributeError(name)
        own = self._names.get(name, name)
        return _NOTHING if own is None else getattr(self._module, own)


class RenamedBlock(Renamed):
    """The same for a block, whose attention is renamed, too; `attention` are the names of its parts."""

    def __init__(self, module: nn.Module, names: Mapping[str, str | None], attention: Mapping[str, str | None]) -> None:
        super().__init__(module, names)
        self._attention = attention

    @property
    def attn(self) -> Any:
        """The attention."""
        return Renamed(getattr(self._module, str(self._names["attn"])), self._attention)


class AttentionCall(HookCall):
    """One call of an attention module of transformers, which returns its output and a map that is not made."""

    def leave(self, out: Tensor) -> Tensor:
        """Return the output as the hooks behind the module leave it."""
        both: Any = (out, None)
        return super().leave(both)[0]


class HfBlock(BaseBlock):
    """A pre-norm block of transformers: three layers for queries, keys and values, attention through transformers' own functions.

    names, inside: timm's names of the parts of block and attention, and their own. mlps: classes of MLP that are known. own_parts: further
    parts of the block.
    """

    names: ClassVar[Mapping[str, str | None]]
    inside: ClassVar[Mapping[str, str | None]]
    mlps: ClassVar[tuple[type[nn.Module], ...]]
    rate: ClassVar[str]  # name of the rate at which attention weights are dropped
    own_parts: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, block: nn.Module, number: int = 0) -> None:
        super().__init__(block, number)
        self.parts = RenamedBlock(block, self.names, self.inside)

    @classmethod
    def refusal(cls, block: Any) -> str | None:
        """Return why a block of `kind` cannot be run, or None."""
        attention = getattr(block, str(cls.names["attn"]))
        patched = [name for name, part in (("block", block), ("attention", attention)) if "forward" in vars(part)]
        if patched:
            return _PATCHED.format(patched[0])
        unknown = part_obstacle("attention", attention, cls.attentions) or part_obstacle("MLP", block.mlp, cls.mlps)
        known = {name for name in cls.names.values() if name} | {"mlp"} | cls.own_parts
        layers = {"q_proj", "k_proj", "v_proj", str(cls.inside["proj"])}
        return unknown or unknown_parts((block, known), (attention, layers))

    @property
    def fused(self) -> bool:
        """Tell whether attention is one fused product: every implementation of transformers but `eager`."""
        return self.parts.attn.config._attn_implementation != "eager"

    def call(self) -> HookCall | None:
        """Return the call of the attention module for its hooks, None where it has none."""
        attention = getattr(self.block, str(self.names["attn"]))
        return None if HookCall.of(attention) is None else AttentionCall(attention)

    def runs_whole(self, state: TokenState) -> bool:
        """Tell whether the block's own forward is run; not where it would keep no activations, which the engine sees to."""
        return super().runs_whole(state) and not (self.block.training and self.block.gradient_checkpointing)

    def whole(self, x: Tensor) -> Tensor:
        """Return the sequence (B,T,C) after the block's own forward."""
        return self.block(x, None)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v (B,h,T,d) of three layers."""
        q, k, v = self.some(x, 0, 3)
        return q, k, v

    def some(self, x: Tensor, first: int, last: int) -> Sequence[Tensor]:
        """Return some of q, k, v, of their own layers."""
        attn, (B, T, _) = self.parts.attn, x.shape
        layers = (attn.q_proj, attn.k_proj, attn.v_proj)[first:last]
        return tuple(layer(x).reshape(B, T, attn.num_heads, -1).transpose(1, 2) for layer in layers)

    def read(self, q: Tensor, p: Projection, bias: Tensor | None, policy: Tensor | None) -> Tensor:
        """Return what queries read, through the attention that transformers is set to; a bias on keys goes through torch's fused product.

        The kernels of FlashAttention take no bias.
        """
        if policy is not None:
            return policy_attention(q, p, bias, policy)
        mask = None if bias is None else bias[:, None, None, :]
        if mask is not None and self.fused:
            return F.scaled_dot_product_attention(q, p.k, p.v, attn_mask=mask, dropout_p=self.dropout(), scale=p.scale)
        attention = getattr(self.block, str(self.names["attn"]))
        out = attention_of(attention)(attention, q, p.k, p.v, mask, dropout=self.dropout(), scaling=p.scale)[0]
        return out.transpose(1, 2)

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch as it is."""
        return x

    def dropout(self) -> float:
        """Return the rate at which attention weights are dropped now."""
        return getattr(self.parts.attn, self.rate) if self.block.training else 0.0

    def dropped(self, weights: Tensor) -> Tensor:
        """Return attention weights, some of them dropped in training."""
        return F.dropout(weights, self.dropout(), self.block.training)


def attention_of(attention: Any) -> Callable[..., Any]:
    """Return the function that computes an attention of transformers, by the implementation that its configuration names."""
    eager = sys.modules[type(attention).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)


_ALIKE = {"q_norm": None, "k_norm": None, "proj_drop": None}
_VIT_INSIDE = {**_ALIKE, "num_heads": "num_attention_heads", "scale": "scaling", "proj": "o_proj"}
_CLIP_INSIDE = {**_ALIKE, "proj": "out_proj"}


class HfViTBlock(HfBlock):
    """The block of ViT and DeiT, which drops single values of both branches."""

    kind, attentions, mlps = vit.ViTLayer, (vit.ViTAttention,), (vit.ViTMLP,)
    names = {"norm1": "layernorm_before", "attn": "attention", "norm2": "layernorm_after", "drop_path1": None, "drop_path2": None}
    inside, rate, own_parts = _VIT_INSIDE, "attention_dropout", frozenset({"dropout"})

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch after the block's dropout."""
        return self.block.dropout(x)


class HfDeiTBlock(HfViTBlock):
    """The block of DeiT."""

    kind, attentions, mlps = deit.DeiTLayer, (deit.DeiTAttention,), (deit.DeiTMLP,)


class HfDinov2Block(HfBlock):
    """The block of DINOv2: LayerScale, stochastic depth, an MLP or SwiGLU."""

    kind, attentions = dinov2.Dinov2Layer, (dinov2.Dinov2Attention,)
    mlps = (dinov2.Dinov2MLP, dinov2.Dinov2SwiGLUFFN)
    names = {"norm1": "norm1", "attn": "attention", "norm2": "norm2", "drop_path1": "drop_path", "drop_path2": "drop_path"}
    inside, rate, own_parts = _VIT_INSIDE, "attention_dropout", frozenset({"layer_scale1", "layer_scale2"})

    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return a branch through its LayerScale."""
        return (self.block.layer_scale1 if branch == 1 else self.block.layer_scale2)(x)


class HfRegistersBlock(HfDinov2Block):
    """The block of DINOv2 with registers."""

    kind, attentions = registers.Dinov2WithRegistersLayer, (registers.Dinov2WithRegistersAttention,)
    mlps = (registers.Dinov2WithRegistersMLP, registers.Dinov2WithRegistersSwiGLUFFN)


class HfClipBlock(HfBlock):
    """The block of CLIP."""

    kind, attentions, mlps = clip.CLIPEncoderLayer, (clip.CLIPAttention,), (clip.CLIPMLP,)
    names = {"norm1": "layer_norm1", "attn": "self_attn", "norm2": "layer_norm2", "drop_path1": None, "drop_path2": None}
    inside, rate = _CLIP_INSIDE, "dropout"


class HfSiglipBlock(HfClipBlock):
    """The block of SigLIP."""

    kind, attentions, mlps = siglip.SiglipEncoderLayer, (siglip.SiglipAttention,), (siglip.SiglipMLP,)
