"""How far tokens are from each other: what clusterings share."""

import torch
from torch import Tensor


def distances(tokens: Tensor, live: Tensor) -> Tensor:
    """Return the Euclidean distances of tokens (B,M,C), (B,M,M), without gradient, in single precision at least.

    Symmetric to the bit, with zeros on the diagonal, so that a tie is one in every execution. Tokens are centred over `live` (B,M) first:
    what all have in common would cost the differences their digits.
    """
    x = tokens.detach().to(torch.promote_types(tokens.dtype, torch.float32))
    weight = live.to(x.dtype).unsqueeze(-1)
    x = x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):
        products = x @ x.mT
    twice = products + products.mT
    square = twice.diagonal(dim1=1, dim2=2) / 2
    return (square.unsqueeze(1) + square.unsqueeze(2) - twice).clamp(min=0).sqrt()
