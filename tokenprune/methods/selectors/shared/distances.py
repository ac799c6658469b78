"""Computes the distances between tokens, which the clusterings share."""

import torch
from torch import Tensor


def distances(tokens: Tensor, live: Tensor) -> Tensor:
    """Return the Euclidean distances of tokens (B,M,C), as (B,M,M), without gradient, in single precision at least.

    They are symmetric to the bit and zero on the diagonal, so a tie is a tie in every execution. Tokens are first centred over `live`
    (B,M), because a part that all tokens share would cost the differences their digits.
    """
    x = tokens.detach().to(torch.promote_types(tokens.dtype, torch.float32))
    weight = live.to(x.dtype).unsqueeze(-1)
    x = x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):
        products = x @ x.transpose(-2, -1)
    twice = products + products.transpose(-2, -1)
    square = twice.diagonal(dim1=1, dim2=2) / 2
    return (square.unsqueeze(1) + square.unsqueeze(2) - twice).clamp(min=0).sqrt()
