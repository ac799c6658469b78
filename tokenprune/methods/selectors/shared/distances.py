"""Computes the distances between tokens, which the clusterings share, and what they ask of them.

Memory that is asked for anew costs more than the arithmetic here, so that a matrix is changed in place where it can be, and is otherwise
worked on some rows at a time: what is made of these is small enough for the allocator to keep.
"""

import torch
from torch import Tensor

ROWS = 512  # rows of a matrix of distances that are worked on at a time


def directions(tokens: Tensor) -> Tensor:
    """Return tokens or keys (B,M,C) at length 1, without gradient, so that their products are cosines; one of length 0 stays 0."""
    tokens = tokens.detach()
    return tokens / torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp_min_(torch.finfo(tokens.dtype).tiny)


def distances(tokens: Tensor, live: Tensor) -> Tensor:
    """Return the Euclidean distances of tokens (B,M,C), as (B,M,M), without gradient, in single precision at least.

    They are symmetric to the bit and zero on the diagonal, so a tie is a tie in every execution. Tokens are first centred over `live`
    (B,M), because a part that all tokens share would cost the differences their digits.
    """
    x = tokens.detach().to(torch.promote_types(tokens.dtype, torch.float32))
    weight = live.to(x.dtype).unsqueeze(-1)
    x = x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):
        twice = mirrored(x @ x.transpose(-2, -1))
    square = twice.diagonal(dim1=1, dim2=2) / 2
    return (square.unsqueeze(1) + square.unsqueeze(2)).sub_(twice).clamp_(min=0).sqrt_()


def mirrored(matrices: Tensor) -> Tensor:
    """Return matrices (B,M,M), each plus its transpose: symmetric to the bit."""
    B, M = matrices.shape[:2]
    flat = matrices.flatten(0, 1).t()  # torch turns one flat matrix four times as fast as B of them
    flipped = flat.clone(memory_format=torch.contiguous_format)
    return flipped.view(M, B, M).transpose(0, 1).add_(matrices)


def in_rows(matrices: Tensor) -> tuple[Tensor, ...]:
    """Return matrices (B,M,M) some rows at a time, (B,R,M), or what there is of each row (B,M) as (B,R)."""
    return matrices.split(ROWS, 1)


def nearest(apart: Tensor, chosen: Tensor) -> Tensor:
    """Return which of some chosen slots is nearest to each slot, (B,M) in 0 ... K-1, the first of those that are equally near.

    Args:
        apart: Distances, (B,M,M).
        chosen: Chosen slots, (B,K).
    """
    places = chosen.unsqueeze(1)
    found = [rows.gather(2, places.expand(-1, rows.shape[1], -1)).min(-1).indices for rows in in_rows(apart)]
    return torch.cat(found, 1)


def within(apart: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of w_j d(i,j) over the slots j that have the same owner as slot i, (B,M).

    Args:
        apart: Distances, (B,M,M).
        owner: Number of each slot's owner, (B,M).
        weights: Weights w, (B,M).
    """
    owner, found = owner.int(), []
    with torch.autocast(apart.device.type, enabled=False):
        for rows, mine in zip(in_rows(apart), in_rows(owner), strict=True):
            together = mine.unsqueeze(2) == owner.unsqueeze(1)
            found.append(rows.where(together, 0.0) @ weights.unsqueeze(2))
    return torch.cat(found, 1).squeeze(2)
