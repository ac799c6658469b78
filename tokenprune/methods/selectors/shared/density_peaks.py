"""Finds peaks of density among tokens (density-peaks clustering with nearest neighbours, DPC-KNN)."""

import torch
from torch import Tensor

from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.treatment import live_first
from tokenprune.methods.selectors.shared.distances import in_rows

NEIGHBOURS = 5  # k, of which the first is the token itself


def peaks(apart: Tensor, live: Tensor | None, noise: Tensor | None = None) -> Tensor:
    """Return log(rho delta) of each token, (B,M).

    rho = exp(-mean d^2 to the k nearest) plus noise. delta is the distance to the nearest token of higher rho, or of the same rho in an
    earlier slot; for the token that has none it is the greatest distance of all. In logarithms densities do not underflow.

    Args:
        apart: Distances over sqrt(C), (B,M,M).
        live: Live slots, (B,M); None if all are.
        noise: Noise on the density, (B,M), or None.
    """
    dead = None if live is None else ~live
    near = torch.cat([_without(rows, dead).topk(min(NEIGHBOURS, rows.shape[2]), -1, largest=False).values for rows in in_rows(apart)], 1)
    known = near.isfinite()
    density = -near.masked_fill(~known, 0.0).square().sum(-1) / known.sum(-1)
    if noise is not None:
        density = (density.exp() + noise).log()
    rank = ranks(density, live)
    above = torch.cat([_nearest_before(rows, mine, rank) for rows, mine in zip(in_rows(apart), in_rows(rank), strict=True)], 1)
    farthest = torch.cat([_without(rows, dead, 0.0).amax(-1) for rows in in_rows(apart)], 1)
    farthest = (farthest if dead is None else farthest.masked_fill(dead, 0.0)).amax(1, keepdim=True)
    delta = above.where(above.isfinite(), farthest)
    return density + delta.clamp(min=torch.finfo(delta.dtype).tiny).log()


def ranks(density: Tensor, live: Tensor | None) -> Tensor:
    """Return the rank of each slot, (B,M): 0 for the densest, the earlier of equal ones first, slots that are not live (B,M) last."""
    order = sort_stably(density, descending=True)[1]
    if live is not None:
        order = live_first(order, live)
    place = torch.arange(order.shape[1], device=order.device, dtype=torch.int32)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, place.expand_as(order))


def _without(rows: Tensor, dead: Tensor | None, value: float = float("inf")) -> Tensor:
    """Return distances (B,R,M) with a value for slots that are not live (B,M)."""
    return rows if dead is None else rows.masked_fill(dead.unsqueeze(1), value)


def _nearest_before(rows: Tensor, mine: Tensor, rank: Tensor) -> Tensor:
    """Return the least distance (B,R) of slots of rank `mine` (B,R) from those that rank before them; infinite where there are none."""
    return rows.masked_fill(rank.unsqueeze(1) >= mine.unsqueeze(2), float("inf")).amin(-1)
