"""Steps that released codes share: a walk over blocks, explicit attention, gathers by expanded indices, ToMe's matching.

The codes keep what timm's blocks have for training, dropout of weights and outputs and DropPath, and call it at test time, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.model import PrunedViT
from tokenprune.engine.schedule import Budget


def embedded(model: PrunedViT, images: Tensor) -> tuple[Tensor, Any, dict[int, Any]]:
    """Return the tokens that enter block 0, timm's model, and the budgets by block."""
    vit: Any = model.backbone
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    return x, vit, model.budgets(x.shape[1] - 1)


def attention(attn: Any, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attention of normed tokens (B,h,T,T), their keys and values (B,h,T,d); `bias` (B,T) is added for each key."""
    B, T, C = x.shape
    q, k, v = attn.qkv(x).reshape(B, T, 3, attn.num_heads, C // attn.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    logits = (q @ k.transpose(-2, -1)) * attn.scale
    return (logits if bias is None else logits + bias[:, None, None, :]).softmax(-1), k, v


def explicit(attn: Any, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what attention adds to tokens, its weights, keys and values, see `attention`."""
    weights, k, v = attention(attn, x, bias)
    return projected(attn, weights, v), weights, k, v


def projected(attn: Any, weights: Tensor, v: Tensor) -> Tensor:
    """Return what attention adds to tokens (B,T,C), of its weights (B,h,T,S) and values (B,h,S,d)."""
    return attn.proj_drop(attn.proj((attn.attn_drop(weights) @ v).transpose(1, 2).flatten(2)))


def fed(block: Any, x: Tensor) -> Tensor:
    """Return what the MLP of a block adds to tokens (B,T,C)."""
    return block.drop_path2(block.mlp(block.norm2(x)))


class Seen(NamedTuple):
    """Holds what the attention of a block made: its weights (B,h,T,T), and keys and values (B,h,T,d)."""

    weights: Tensor
    keys: Tensor
    values: Tensor


def walked(
    model: PrunedViT, images: Tensor, act: Callable[[Tensor, Tensor, Seen, Budget], tuple[Tensor, Tensor]], proportional: bool = False
) -> Tensor:
    """Return the logits of a model whose blocks attend explicitly and decide between attention and MLP, as most released codes have it.

    Args:
        model: The model, for its weights and budgets.
        images: Images (B,3,h,w).
        act: Called in each deciding block with the tokens (B,T,C), their sizes (B,T,1), what the attention made, and the budget; returns
            tokens and sizes.
        proportional: Whether log(size) is added to the logits of each key.
    """
    x, vit, budgets = embedded(model, images)
    size = torch.ones_like(x[..., :1])
    for number, block in enumerate(vit.blocks):
        out, *seen = explicit(block.attn, block.norm1(x), size[..., 0].log() if proportional else None)
        x = x + block.drop_path1(out)
        if number in budgets:
            x, size = act(x, size, Seen(*seen), budgets[number])
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def gathered(x: Tensor, slots: Tensor) -> Tensor:
    """Return slots (B,K) of tokens (B,T,C), by expanded indices."""
    return x.gather(1, slots.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def selected(x: Tensor, slots: Tensor) -> Tensor:
    """Return slots (B,K) of tokens (B,M,C), by one flat index."""
    (B, M, C), K = x.shape, slots.shape[1]
    flat = slots + torch.arange(B, device=x.device).view(B, 1) * M
    return x.reshape(B * M, C)[flat.reshape(-1)].reshape(B, K, C)


def matching(metric: Tensor, merged: int | Callable[[Tensor], int]) -> Callable[..., Tensor]:
    """Return what merges tokens or sizes (B,T,C): the `merged` most similar pairs of even and odd slots by `metric` (B,T,d).

    `merged` may be a function that finds the number from the best similarity of each even slot, (B,T/2), of which the first is the class
    token's, -inf. What is returned takes `reduce`, that of scatter_reduce and "sum" by default; "none" drops the even ones.
    """
    metric = F.normalize(metric, dim=-1)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    scores[:, 0] = float("-inf")
    best, partner = scores.max(-1)
    count = merged(best) if callable(merged) else merged
    edges = best.argsort(dim=-1, descending=True)
    source, stays = edges[:, :count], edges[:, count:].sort(dim=1).values
    into = partner.gather(1, source)

    def merge(x: Tensor, reduce: str = "sum") -> Tensor:
        even, odd = x[:, ::2], x[:, 1::2]
        target = into.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        joined = odd if reduce == "none" else odd.scatter_reduce(1, target, gathered(even, source), reduce=reduce)
        return torch.cat([gathered(even, stays), joined], 1)

    return merge
