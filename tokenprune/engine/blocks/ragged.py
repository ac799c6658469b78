"""Attention of images that lie packed in one row, each among its own rows: the way that is fastest depends on the device.

Measured (a DeiT-S block, time over a batch of equal counts): a loop of fused products on the CPU 1.00-1.04, padded 1.08-1.12; nested
tensors 1.4-1.6. On CUDA a loop is bound by launches, and torch's own `varlen_attn` takes the starts of the images from the device.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.packing import Packing


def ragged_attention(q: Tensor, k: Tensor, v: Tensor, asking: Packing, seen: Packing, bias: Tensor | None, dropout: float) -> Tensor:
    """Return (1,h,Q,d): each image's queries over its own keys.

    Args:
        q: (1,h,Q,d), packed as `asking`. k, v: (1,h,T,d), packed as `seen`.
        asking, seen: the same images; an image may ask with fewer rows than are seen.
        bias: (1,T) added to the logits of each key, or None.
        dropout: of the attention weights.
    """
    if asking.even and seen.even:
        return even(q, k, v, asking, seen, bias, dropout)
    if not q.is_cuda and asking.lengths and seen.lengths:
        return looped(q, k, v, asking, seen, bias, dropout)
    if bias is None and not dropout and varlen_takes(q):
        return varlen(q, k, v, asking, seen)
    return padded(q, k, v, asking, seen, bias, dropout)


def even(q: Tensor, k: Tensor, v: Tensor, asking: Packing, seen: Packing, bias: Tensor | None, dropout: float) -> Tensor:
    """One batch: nothing is ragged."""
    B = len(seen.lengths)
    q, k, v = (t.unflatten(2, (B, -1)).squeeze(0).transpose(0, 1) for t in (q, k, v))  # (B,h,L,d)
    mask = None if bias is None else bias.view(B, 1, 1, -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(0, 1).unsqueeze(0).transpose(1, 2)


def looped(q: Tensor, k: Tensor, v: Tensor, asking: Packing, seen: Packing, bias: Tensor | None, dropout: float) -> Tensor:
    """One fused product an image."""
    parts = zip(q.split(asking.lengths, 2), k.split(seen.lengths, 2), v.split(seen.lengths, 2), strict=True)
    masks = [None] * len(seen.lengths) if bias is None else [b[:, None, None, :] for b in bias.split(seen.lengths, 1)]
    out = [F.scaled_dot_product_attention(*qkv, attn_mask=m, dropout_p=dropout) for qkv, m in zip(parts, masks, strict=True)]
    return torch.cat([o.transpose(1, 2) for o in out], 1).transpose(1, 2)  # joined as the heads are merged: no second copy


def varlen(q: Tensor, k: Tensor, v: Tensor, asking: Packing, seen: Packing) -> Tensor:
    """One kernel for all images; nothing is asked of the device."""
    q, k, v = (t.squeeze(0).transpose(0, 1) for t in (q, k, v))  # (T,h,d)
    kernel = _varlen_attn()
    if kernel is None:
        raise RuntimeError("this torch has no varlen_attn; ask `varlen_takes` first")
    out = kernel(q, k, v, asking.starts, seen.starts, asking.longest, seen.longest)
    return out.transpose(0, 1).unsqueeze(0)


def padded(q: Tensor, k: Tensor, v: Tensor, asking: Packing, seen: Packing, bias: Tensor | None, dropout: float) -> Tensor:
    """One batch of the longest length, padding hidden; only attention pays for it."""
    (rows, _), (keys, real) = asking.window, seen.window
    q, k, v = (t.squeeze(0)[:, places].transpose(0, 1) for t, places in ((q, rows), (k, keys), (v, keys)))  # (B,h,L,d)
    hidden = torch.zeros(real.shape, dtype=q.dtype, device=q.device).masked_fill(~real, float("-inf"))
    hidden = hidden if bias is None else hidden + bias[0, keys]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden[:, None, None, :], dropout_p=dropout)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, asking.back).unsqueeze(0).transpose(1, 2)


def varlen_takes(q: Tensor) -> bool:
    """Tell whether `varlen_attn` has a kernel for these queries: half precision, FlashAttention's head sizes, Ampere or newer."""
    half = q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    return half and _varlen_attn() is not None and torch.cuda.get_device_capability(q.device) >= (8, 0)


@lru_cache(maxsize=1)
def _varlen_attn() -> Callable[..., Any] | None:
    """Return torch's varlen_attn, None in a torch that does not have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
