"""Adapter for timm's plain Vision Transformer (`vision_transformer.Block` with `Attention`): ViT, DeiT and relatives."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from tokenprune.blocks.ragged import ragged_attention
from tokenprune.errors import UnsupportedBackbone
from tokenprune.packing import Packing

POLICY_EPS = 1e-6


@dataclass(frozen=True)
class Projection:
    """Queries, keys and values of one block, (B,h,T,d) each, T = P+M; `gate` (B,T,C) for timm's gated attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    gate: Tensor | None = None


@dataclass(frozen=True)
class BlockMacs:
    """Multiply-accumulates of a block: weight layers, the two attention products, norms (5 per element, as fvcore counts)."""

    linear: float
    attention: float
    norm: float


class TimmBlock:
    """One timm block seen as project -> attend -> feed; the block is held by reference and keeps its parameters."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.drop_path = True  # Last Layer Fusion switches DropPath off in its block

    @staticmethod
    def refusal(block: nn.Module) -> str | None:
        """Return why a block cannot be run, or None."""
        if type(block) is not Block:
            return f"its block is {type(block).__module__}.{type(block).__name__}, known is timm.models.vision_transformer.Block"
        if type(block.attn) is not Attention:
            return f"its attention is {type(block.attn).__name__}, known is timm's Attention"
        known = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
        extra = sorted(set(dict(block.named_children())) - known)
        return f"its block has parts that this adapter does not know: {', '.join(extra)}" if extra else None

    @property
    def heads(self) -> int:
        """Return the number of attention heads h."""
        return self.block.attn.num_heads

    @property
    def drops_paths(self) -> bool:
        """Tell whether training drops this block's branches for whole images at random."""
        rates = (getattr(layer, "drop_prob", 0.0) for layer in (self.block.drop_path1, self.block.drop_path2))
        return self.drop_path and any(rates)

    def project(self, x: Tensor) -> Projection:
        """Return q, k, v of the normed sequence x (B,T,C)."""
        attn, x = self.block.attn, self.block.norm1(x)
        B, T, _ = x.shape
        q, k, v = attn.qkv(x).reshape(B, T, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        gate = getattr(attn, "gate", None)
        return Projection(attn.q_norm(q), attn.k_norm(k), v, attn.scale, gate(x).sigmoid() if gate is not None else None)

    def attend(self, p: Projection, rows: Tensor | None = None, bias: Tensor | None = None, policy: Tensor | None = None) -> Tensor:
        """Return the attention branch, ready to be added to x.

        Args:
            p: projections of the T tokens.
            rows: (B,K) queries to compute; all T if None (ATS computes kept rows only).
            bias: (B,T) added to the logits of each key: -inf hides a key, log mass makes attention proportional (ToMe Eq. 1).
            policy: (B,T) in [0,1], DynamicViT's Eq. 11: keys weighted by the policy, every token sees itself.
        """
        q = p.q if rows is None else p.q.gather(2, rows[:, None, :, None].expand(-1, p.q.shape[1], -1, p.q.shape[-1]))
        if policy is not None:
            out = policy_attention(q, p, bias, policy)
        elif getattr(self.block.attn, "fused_attn", True):
            mask = None if bias is None else bias[:, None, None, :]
            out = F.scaled_dot_product_attention(q, p.k, p.v, attn_mask=mask, dropout_p=self._dropout())
        else:
            logits = (q * p.scale) @ p.k.transpose(-2, -1)
            logits = logits if bias is None else logits + bias[:, None, None, :]
            out = self.block.attn.attn_drop(logits.softmax(-1)) @ p.v
        return self.merge_heads(out, p.gate)

    def attend_ragged(self, p: Projection, asking: Packing, seen: Packing, bias: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Return the attention branch (1,Q,C) of images packed in one row (1,T,C).

        Args:
            p: projections of the T rows, packed as `seen`.
            asking: packing of the Q queries; `seen` itself if `rows` is None.
            seen: packing of the T rows.
            bias: (1,T) added to the logits of each key, or None.
            rows: (Q,) places of the queries in the packed row.
        """
        q, gate = (p.q, p.gate) if rows is None else (p.q[:, :, rows], None if p.gate is None else p.gate[:, rows])
        return self.merge_heads(ragged_attention(q, p.k, p.v, asking, seen, bias, self._dropout()), gate)

    def merge_heads(self, out: Tensor, gate: Tensor | None) -> Tensor:
        """Return the projected, scaled branch (B,T,C) of per-head outputs (B,h,T,d)."""
        attn, block = self.block.attn, self.block
        x = out.transpose(1, 2).flatten(2)
        x = attn.norm(x) if hasattr(attn, "norm") else x
        x = x * gate if gate is not None else x
        return self._branch(block.drop_path1, block.ls1(attn.proj_drop(attn.proj(x))))

    def feed(self, x: Tensor) -> Tensor:
        """Return the MLP branch of x (B,T,C), ready to be added."""
        b = self.block
        return self._branch(b.drop_path2, b.ls2(b.mlp(b.norm2(x))))

    def macs(self, attended: float, rows: float, fed: float, products: float) -> BlockMacs:
        """Return MACs for `attended` tokens in, `rows` queries, `fed` tokens through the MLP; `products` = mean of attended * rows."""
        attn, mlp = self.block.attn, self.block.mlp
        C, A, hidden = attn.qkv.in_features, attn.proj.in_features, mlp.fc1.out_features
        linear = attended * attn.qkv.out_features * C + rows * A * attn.proj.out_features + fed * 2 * C * hidden
        return BlockMacs(linear, 2.0 * products * A, 5.0 * C * (attended + fed))

    def _branch(self, drop_path: nn.Module, x: Tensor) -> Tensor:
        return drop_path(x) if self.drop_path else x

    def _dropout(self) -> float:
        return self.block.attn.attn_drop.p if self.block.training else 0.0


def policy_attention(q: Tensor, p: Projection, bias: Tensor | None, policy: Tensor) -> Tensor:
    """Return DynamicViT's softmax over keys weighted by a policy (B,T), its Eq. 10-11, as (B,h,T,d).

    The row maximum runs over visible keys only: the released code takes it over all, and a large hidden logit then drowns the row.
    """
    T = p.k.shape[2]
    logits = ((q * p.scale) @ p.k.transpose(-2, -1)).float()
    logits = logits if bias is None else logits + bias[:, None, None, :]
    eye = torch.eye(T, device=q.device, dtype=logits.dtype)
    weight = policy[:, None, None, :] * (1 - eye) + eye  # (B,1,T,T)
    top = logits.detach().masked_fill(weight <= 0, float("-inf")).amax(-1, keepdim=True)
    unnormed = (logits - top).clamp(max=0.0).exp() * weight
    a = (unnormed + POLICY_EPS / T) / (unnormed.sum(-1, keepdim=True) + POLICY_EPS)
    return a.type_as(p.v) @ p.v


class TimmViT:
    """A timm VisionTransformer seen as embed -> blocks -> norm -> head."""

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model
        self.blocks = [TimmBlock(block) for block in model.blocks]
        self.dim: int = model.embed_dim
        self.prefix: int = model.num_prefix_tokens
        self.has_cls: bool = model.cls_token is not None
        self.patch: int = model.patch_embed.patch_size[0]
        self.own_positions: int = model.patch_embed.num_patches

    @staticmethod
    def refusal(model: nn.Module) -> str | None:
        """Return why a model cannot be run, or None."""
        if not isinstance(model, VisionTransformer):
            return "it is not a timm VisionTransformer"
        if type(model.patch_drop) is not nn.Identity:
            return "patch_drop_rate > 0 drops tokens by itself; build the model without it"
        return next((reason for block in model.blocks if (reason := TimmBlock.refusal(block))), None)

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (H,W) of an image of that size in pixels."""
        ph, pw = self.model.patch_embed.patch_size
        return height // ph, width // pw

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return prefix (B,P,C) and patch tokens (B,N,C) of images (B,3,h,w), positions added."""
        m = self.model
        x = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(images))))
        return x[:, : self.prefix], x[:, self.prefix :]

    def embed_macs(self, positions: int) -> float:
        """Return the MACs of the patch embedding."""
        weight = self.model.patch_embed.proj.weight
        return float(positions * weight.numel())

    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C)."""
        return self.model.norm(x)

    def classify(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor:
        """Return logits of normed prefix (B,P,C) and tokens (B,K,C) through the model's own pooling and head.

        Args:
            prefix, tokens: after the final norm.
            live: (B,K) which tokens count, None for all.

        Raises:
            UnsupportedBackbone: uneven counts under a pooling other than `token` and `avg`.
        """
        pooling = self.model.global_pool
        if pooling == "token":
            return self.model.forward_head(prefix)
        if live is None:
            return self.model.forward_head(torch.cat([prefix, tokens], 1) if prefix.shape[1] else tokens)
        if pooling != "avg":
            raise UnsupportedBackbone(f"uneven token counts cannot be pooled by {pooling!r}; models with `token` and `avg` pooling can")
        weight = live.unsqueeze(-1).to(tokens.dtype)
        total, count = (tokens * weight).sum(1), weight.sum(1)
        if getattr(self.model, "pool_include_prefix", False):
            total, count = total + prefix.sum(1), count + prefix.shape[1]
        mean = (total / count).unsqueeze(1)
        return self.model.forward_head(mean.expand(-1, self.prefix + 1, -1))  # equal tokens: the model's mean is this mean

    def head_macs(self) -> float:
        """Return the MACs of the classification head, 0 without one."""
        head = self.model.head
        return float(head.weight.numel()) if isinstance(head, nn.Linear) else 0.0
