"""What all block adapters share: projections, attention, branches and their cost. T = P+M tokens, d channels a head."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from tokenprune.engine.blocks.module_hooks import HookCall, passed
from tokenprune.engine.blocks.ragged import ragged_attention
from tokenprune.engine.blocks.refusals import part_obstacle
from tokenprune.engine.blocks.rotary import rotary_rows, rotated
from tokenprune.engine.packing import Packing

if TYPE_CHECKING:
    from tokenprune.engine.blocks.windows import Windows
    from tokenprune.engine.state import TokenState

POLICY_EPS = 1e-6
_PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2", "gamma_1", "gamma_2"}
_INSIDE = {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "v_bias", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}
_MLPS = (Mlp, GluMlp, SwiGLU)  # each token by itself, which others need not do (GatedMlp, GlobalResponseNormMlp)


@dataclass(frozen=True)
class Projection:
    """Queries, keys and values of one block, (B,h,T,d) each, rotated if the model is; `gate` (B,T,hd) for timm's gated attention.

    windows: inside which the block attends, None for the whole sequence. call: of the attention module, for its hooks; None without any.
    map (B,h,T,T): softmax of the logits, where the block itself makes it (site `ahead`); there and for selectors that peek v is empty.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    gate: Tensor | None = None
    windows: "Windows | None" = None
    call: HookCall | None = None
    map: Tensor | None = None


class ProjectionView(Protocol):
    """A projection as selectors read one: a `Projection`, or one of packed rows (`packing.Spread`)."""

    @property
    def q(self) -> Tensor:
        """Queries (B,h,T,d)."""
        ...

    @property
    def k(self) -> Tensor:
        """Keys (B,h,T,d)."""
        ...

    @property
    def v(self) -> Tensor:
        """Values (B,h,T,d)."""
        ...

    @property
    def scale(self) -> float:
        """Factor of the logits."""
        ...

    @property
    def windows(self) -> "Windows | None":
        """The windows inside which the block attends."""
        ...

    @property
    def map(self) -> Tensor | None:
        """The attention map (B,h,T,T) of the block, where it exists."""
        ...


@dataclass(frozen=True)
class BlockMacs:
    """Multiply-accumulates of a block: weight layers, the two attention products, norms (5 per element, as fvcore counts)."""

    linear: float
    attention: float
    norm: float


class BaseBlock(ABC):
    """One pre-norm block seen as project -> attend -> feed; the block is held by reference and keeps its parameters.

    number: 0-based, of the block in its model. kind, attentions: the classes of block and attention that the adapter knows. max_keys: the
    most keys that a query sees, None for all tokens.
    """

    kind: ClassVar[type[nn.Module]]
    attentions: ClassVar[tuple[type[nn.Module], ...]]
    max_keys: int | None = None
    windows: "Windows | None" = None

    def __init__(self, block: nn.Module, number: int = 0) -> None:
        self.block: Any = block  # timm's blocks have no common type; `refusal` has looked at its parts
        self.parts: Any = block  # has norm1, attn and so on; a view of the block where they have other names
        self.number = number
        self.drop_path = True  # Last Layer Fusion switches DropPath off in its block

    @classmethod
    def refusal(cls, block: Any) -> str | None:
        """Return why a block of `kind` cannot be run, or None."""
        patched = [name for name, part in (("block", block), ("attention", block.attn)) if "forward" in vars(part)]
        if patched:
            return f"its {patched[0]} has a forward that was set on the instance, which would be passed over; set it on the parts inside"
        unknown = part_obstacle("attention", block.attn, cls.attentions) or part_obstacle("MLP", block.mlp, _MLPS)
        return unknown or unknown_parts((block, _PARTS), (block.attn, _INSIDE))

    @property
    def heads(self) -> int:
        """Return the number of attention heads h."""
        return self.parts.attn.num_heads

    @property
    def drops_paths(self) -> bool:
        """Tell whether training drops this block's branches for whole images at random."""
        rates = (getattr(layer, "drop_prob", 0.0) for layer in (self.parts.drop_path1, self.parts.drop_path2))
        return self.drop_path and any(rates)

    @abstractmethod
    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B,h,T,d), keys and values (B,h',T,d) of the normed sequence x (B,T,C); h' divides h."""

    def some(self, x: Tensor, first: int, last: int) -> Sequence[Tensor]:
        """Return those of queries (0), keys (1) and values (2) of the normed sequence x from `first` up to `last`.

        A layer that makes all three at once is asked for all of them unless the adapter can ask for a part.
        """
        return self.qkv(x)[first:last]

    @abstractmethod
    def scaled(self, x: Tensor, branch: int) -> Tensor:
        """Return branch 1 (attention) or 2 (MLP) times its LayerScale, if there is one."""

    def codes(self, state: "TokenState", picked: Tensor | None = None) -> Tensor | None:
        """Return the rotary rows of the sequence, or of its `picked` rows, for `project`; see `rotary_rows`."""
        return rotary_rows(state, self.number, picked)

    def runs_whole(self, state: "TokenState") -> bool:
        """Tell whether the block's own forward computes what the adapter computes, for a state of which nothing is hidden or biased."""
        return state.rope is None and (self.drop_path or not self.block.training)

    def whole(self, x: Tensor) -> Tensor:
        """Return the sequence (B,T,C) after the block's own forward, which calls its hooks."""
        return self.block(x)

    def project(self, x: Tensor, rope: Tensor | None = None) -> Projection:
        """Return q, k, v of a sequence x (B,T,C).

        Args:
            x: the sequence before the block's norm.
            rope: rotary rows of these T tokens, broadcastable to (B,h,T,2d); None rotates nothing.
        """
        x, call = self._entered(x)
        q, k, v = self.qkv(x)
        q, k = self._turned(q, k, rope, v.dtype)
        return Projection(q, k, _for_heads(v, q.shape[1]), self.parts.attn.scale, self._gated(x), call=call)

    def asks(self, x: Tensor, rope: Tensor | None = None) -> Projection:
        """Return queries and keys of a sequence x (B,T,C) as `project` does, without its values."""
        x, call = self._entered(x)
        q, k = self.some(x, 0, 2)
        q, k = self._turned(q, k, rope)
        return Projection(q, k, k[:, :, :0], self.parts.attn.scale, call=call)

    def answer(self, x: Tensor, weights: Tensor, call: HookCall | None) -> Tensor:
        """Return the attention branch (B,T,C) of weights (B,h,T,T) over the values of a sequence x (B,T,C)."""
        x = self.parts.norm1(x)
        (v,) = self.some(x, 2, 3)
        out = self.dropped(weights).type_as(v) @ _for_heads(v, weights.shape[1])
        return self.merge_heads(out, self._gated(x), call)

    def attend(self, p: Projection, rows: Tensor | None = None, bias: Tensor | None = None, policy: Tensor | None = None) -> Tensor:
        """Return the attention branch, ready to be added to x.

        Args:
            p: projections of the T tokens.
            rows: (B,K) queries to compute; all T if None (ATS computes kept rows only).
            bias: (B,T) added to the logits of each key: -inf hides a key, log mass makes attention proportional (ToMe Eq. 1).
            policy: (B,T) in [0,1], DynamicViT's Eq. 11: keys weighted by the policy, every token sees itself.
        """
        q, gate = p.q, p.gate
        if rows is not None:
            q = q.gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
            gate = None if gate is None else gate.gather(1, rows.unsqueeze(-1).expand(-1, -1, gate.shape[-1]))
        return self.merge_heads(self.read(q, p, bias, policy), gate, p.call)

    def read(self, q: Tensor, p: Projection, bias: Tensor | None, policy: Tensor | None) -> Tensor:
        """Return what queries q (B,h,K,d) read from keys and values, (B,h,K,d); `bias` and `policy` as in `attend`."""
        if policy is not None:
            return policy_attention(q, p, bias, policy)
        if self.fused:
            mask = None if bias is None else bias[:, None, None, :]
            return F.scaled_dot_product_attention(q, p.k, p.v, attn_mask=mask, dropout_p=self.dropout())
        logits = (q * p.scale) @ p.k.transpose(-2, -1)
        logits = logits if bias is None else logits + bias[:, None, None, :]
        return self.dropped(logits.softmax(-1)) @ p.v

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
        return self.merge_heads(ragged_attention(q, p.k, p.v, asking, seen, bias, self.dropout()), gate, p.call)

    def merge_heads(self, out: Tensor, gate: Tensor | None, call: HookCall | None = None) -> Tensor:
        """Return the projected, scaled branch (B,T,C) of per-head outputs (B,h,T,d); `call` ends with what the attention module returns."""
        attn = self.parts.attn
        x = out.transpose(1, 2).flatten(2)
        norm = _part(attn, "norm")
        x = x if norm is None else norm(x)
        x = x * gate if gate is not None else x
        x = passed(attn.proj_drop, attn.proj(x))
        return self._branch(self.parts.drop_path1, self.scaled(x if call is None else call.leave(x), 1))

    def feed(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return the MLP branch of x (B,T,C), ready to be added.

        Args:
            x: the sequence before the branch's norm.
            channels: factors of the normed x, broadcastable to it; None for 1.
        """
        normed = self.parts.norm2(x)
        normed = normed if channels is None else normed * channels
        return self._branch(self.parts.drop_path2, self.scaled(self.parts.mlp(normed), 2))

    def macs(self, attended: float, rows: float, fed: float, products: float, valued: float | None = None) -> BlockMacs:
        """Return MACs for `attended` tokens in, `rows` queries, `fed` tokens through the MLP; `products` = mean of attended * rows.

        Weights are counted layer by layer as they are (SwiGLU has three, grouped keys are narrower); rotation is not counted. `valued`: how
        many tokens have values, where they are normed anew and are not those that have keys (site `ahead`).
        """
        block, attn = self.parts, self.parts.attn
        out, again = layer_macs(attn.proj), 0.0 if valued is None else valued
        value = 0.0 if valued is None else self._value_macs()
        linear = attended * (layer_macs(attn) - out - value) + again * value + rows * out + fed * layer_macs(block.mlp)
        asked = attn.num_heads * _width(attn.q_norm) + getattr(attn, "num_kv_heads", attn.num_heads) * _width(attn.k_norm)
        inner = rows * _width(getattr(attn, "norm", None)) + fed * _width(getattr(block.mlp, "norm", None))
        norm = attended * (_width(block.norm1) + asked) + again * _width(block.norm1) + fed * _width(block.norm2) + inner
        return BlockMacs(linear, 2.0 * products * attn.proj.in_features, 5.0 * norm)

    def _entered(self, x: Tensor) -> tuple[Tensor, HookCall | None]:
        """Return the normed sequence as the attention module takes it, and the call of the module for its hooks."""
        x, call = self.parts.norm1(x), self.call()
        return x if call is None else call.enter(x), call

    def _turned(self, q: Tensor, k: Tensor, rope: Tensor | None, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B,h,T,d) normed and rotated, rotated ones of a `dtype` or else of their own."""
        attn = self.parts.attn
        q, k = passed(attn.q_norm, q), passed(attn.k_norm, k)
        if rope is not None:
            q, k = (rotated(t, rope, getattr(attn, "rotate_half", False)).to(dtype or t.dtype) for t in (q, k))
        return q, _for_heads(k, q.shape[1])

    def _gated(self, x: Tensor) -> Tensor | None:
        """Return the gate of timm's gated attention for a normed sequence, None without one."""
        gate = _part(self.parts.attn, "gate")
        return gate(x).sigmoid() if gate is not None else None

    def _value_macs(self) -> float:
        attn = self.parts.attn
        apart = getattr(attn, "v_proj", None)
        return layer_macs(attn.qkv) / 3 if apart is None else layer_macs(apart)

    def _branch(self, drop_path: nn.Module, x: Tensor) -> Tensor:
        return passed(drop_path, x) if self.drop_path else x

    def dropout(self) -> float:
        """Return the rate at which attention weights are dropped now."""
        return self.parts.attn.attn_drop.p if self.block.training else 0.0

    def dropped(self, weights: Tensor) -> Tensor:
        """Return attention weights, some of them dropped in training."""
        return passed(self.parts.attn.attn_drop, weights)

    def call(self) -> HookCall | None:
        """Return the call of the attention module for its hooks, None where it has none."""
        return HookCall.of(self.parts.attn)

    @property
    def fused(self) -> bool:
        """Tell whether the block's own attention is one fused product."""
        return getattr(self.parts.attn, "fused_attn", True)


def _part(module: Any, name: str) -> Any:
    """Return a child of a module or of a view of one, None where it has none; to ask a module for what it lacks takes long."""
    children = getattr(module, "_modules", None)
    return getattr(module, name, None) if children is None else children.get(name)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """Return keys or values (B,h',T,d) for so many heads: neighbouring heads share one in grouped-query attention."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


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


def unknown_parts(*known: tuple[nn.Module, set[str]]) -> str | None:
    """Return that modules have parts or parameters beside those `known` of them, None if they have not."""
    extra = [name for module, names in known for name in sorted(_own(module) - names)]
    return f"its block has parts that this adapter does not know: {', '.join(extra)}" if extra else None


def _own(module: nn.Module) -> set[str]:
    """Names of a module's own parts and parameters."""
    return {name for name, _ in module.named_children()} | {name for name, _ in module.named_parameters(recurse=False)}


def layer_macs(module: nn.Module) -> int:
    """Return the multiply-accumulates of a token through all linear layers of a module, those of other libraries included.

    A quantised layer counts as the layer that it replaces, a layer that wraps others as these, and a matrix that belongs to no layer
    (low-rank adapters) as one more layer.
    """
    inner = sum(layer_macs(child) for child in module.children())
    leaf = not inner and hasattr(module, "in_features")
    loose = sum(p.numel() for name, p in module.named_parameters(recurse=False) if p.dim() == 2 and not (leaf and name == "weight"))
    sides: Any = module
    return inner + loose + (int(sides.in_features * sides.out_features) if leaf else 0)


def _width(norm: nn.Module | None) -> int:
    """Elements that a norm takes in one go, 0 where there is none."""
    shape = getattr(norm, "normalized_shape", None)
    return 0 if shape is None else math.prod(shape)
