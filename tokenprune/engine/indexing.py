"""Row gathers and writes by one flat index, the fast way (13x and 3x faster than gather and scatter with expanded indices)."""

from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sized(length: Any) -> int:
    """Return a length as a number; while a program is recorded, shapes give tensors or symbols.

    A program of torch.compile then holds for this length alone: `int` would keep its symbol, which no schedule can count with.
    """
    return index(length)


def recorded_by_jit() -> bool:
    """Tell whether torch.jit.trace, or an exporter that uses it, records a program."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] torch documents it


def traced() -> bool:
    """Tell whether a program is being recorded, which must not depend on the batch size of its example."""
    return torch.compiler.is_compiling() or recorded_by_jit()


def _by_older_exporter() -> bool:
    return recorded_by_jit() and torch.onnx.is_in_onnx_export()  # in this order: the second imports modules in each call


def sort_stably(x: Tensor, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Return values and indices of x (B,M) sorted along its rows; ties keep their order, as they do in ONNX's TopK."""
    if _by_older_exporter():  # which has no translation of a stable sort
        found = x.topk(x.shape[1], dim=1, largest=descending)
        return found.values, found.indices
    return x.sort(dim=1, descending=descending, stable=True)


def flat(slots: Tensor, rows: int) -> Tensor:
    """Return the places (B*K,) of slots (B,K) in a batch of B times `rows` rows."""
    if slots.shape[0] == 1 and not traced():  # a traced program must not depend on the batch size
        return slots.flatten()
    return (slots + torch.arange(slots.shape[0], device=slots.device).unsqueeze(1) * rows).flatten()


def behind(slots: Tensor, prefix: int) -> Tensor:
    """Return the places (B,P+K) of `prefix` tokens and of slots (B,K) behind them in one sequence."""
    if prefix <= 1:
        return F.pad(slots + prefix, (prefix, 0)) if prefix else slots  # the class token alone, at place 0
    first = torch.arange(prefix, device=slots.device).expand(slots.shape[0], prefix)  # a size that tracers follow
    return torch.cat([first, slots + prefix], 1)


def take(x: Tensor, slots: Tensor) -> Tensor:
    """Gather rows: x (B,M,...), slots (B,K) -> (B,K,...). One flat index_select, 13x faster than gather(expand)."""
    if x.dim() == 2:
        return x.gather(1, slots)  # nothing to expand, and no flat index to make
    if slots.shape[0] == 1 and not traced():
        return x.index_select(1, slots[0])  # the same rows in half as many steps
    return x.flatten(0, 1).index_select(0, flat(slots, x.shape[1])).unflatten(0, slots.shape)


def add(x: Tensor, slots: Tensor, values: Tensor) -> Tensor:
    """Add rows: x (B,M,C) with values (B,K,C) added to rows slots (B,K), which may come several times; out of place."""
    if _by_older_exporter():  # which adds once where an index comes twice
        return x.scatter_add(1, slots.unsqueeze(-1).expand_as(values), values)
    if slots.shape[0] == 1 and not traced():
        return x.index_add(1, slots[0], values)
    return x.flatten(0, 1).index_add(0, flat(slots, x.shape[1]), values.flatten(0, 1)).view_as(x)


def put(base: Tensor, slots: Tensor, values: Tensor, everywhere: bool = False) -> Tensor:
    """Write rows: base (B,M,...) with base[b, slots[b,k]] = values[b,k]; negative slots are ignored, or there are none (`everywhere`).

    Out of place, and one copy of the base: autograd, and whoever holds the older state, may need what was there.
    """
    B, M = base.shape[:2]
    if everywhere:
        return base.flatten(0, 1).index_copy(0, flat(slots, M), values.flatten(0, 1).to(base.dtype)).unflatten(0, (B, M))
    spill = torch.cat([base, base.new_empty(B, 1, *base.shape[2:])], 1)  # row M catches what has no place
    written = spill.flatten(0, 1).index_copy(0, flat(slots.where(slots >= 0, M), M + 1), values.flatten(0, 1).to(base.dtype))
    return written.unflatten(0, (B, M + 1))[:, :M]
