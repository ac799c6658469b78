"""Blocks whose parts torch.compile has compiled: one program a part, which all blocks of a kind share, for any number of tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock, Projection
from tokenprune.engine.blocks.ragged import ragged_attention
from tokenprune.engine.packing import Packing

_PROGRAMS: dict[tuple[Any, ...], Callable[..., Any]] = {}  # by part and options; a model that held them could not be pickled


class CompiledBlock:
    """The adapter of one block that runs compiled parts; all else is the adapter's that it is made of.

    The parts are the block's own forward, its projections, its attention, what follows the attention of packed rows, and its MLP. A
    block whose attention has hooks runs as it is.

    Args:
        block: The adapter.
        options: Arguments of torch.compile.
    """

    def __init__(self, block: BaseBlock, options: Mapping[str, Any]) -> None:
        self._block, self._options = block, dict(options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy is made there is no block yet
            raise AttributeError(name)
        return getattr(self._block, name)

    def whole(self, x: Tensor) -> Tensor:
        """Return the sequence (B,T,C) after the block's own forward."""
        return self._run(_whole, x)

    def project(self, x: Tensor, rope: Tensor | None = None) -> Projection:
        """Return q, k, v of a sequence, see `BaseBlock.project`."""
        if self._block.call() is not None:
            return self._block.project(x, rope)
        q, k, v, gate = self._run(_project, x, rope)
        return Projection(q, k, v, self._block.parts.attn.scale, gate, self._block.windows)

    def attend(self, p: Projection, rows: Tensor | None = None, bias: Tensor | None = None, policy: Tensor | None = None) -> Tensor:
        """Return the attention branch, see `BaseBlock.attend`."""
        if p.call is not None or p.windows is not None:
            return self._block.attend(p, rows, bias, policy)
        return self._run(_attend, p.q, p.k, p.v, p.scale, p.gate, rows, bias, policy)

    def attend_ragged(self, p: Projection, asking: Packing, seen: Packing, bias: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Return the attention branch of packed rows, see `BaseBlock.attend_ragged`; attention itself is no part of a program."""
        if p.call is not None:
            return self._block.attend_ragged(p, asking, seen, bias, rows)
        q, gate = (p.q, p.gate) if rows is None else (p.q[:, :, rows], None if p.gate is None else p.gate[:, rows])
        return self._run(_merge, ragged_attention(q, p.k, p.v, asking, seen, bias, self._block.dropout()), gate)

    def feed(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return the MLP branch, see `BaseBlock.feed`."""
        return self._run(_feed, x, channels)

    def _run(self, part: Callable[..., Any], *given: Any) -> Any:
        key = (part, *sorted((name, str(value)) for name, value in self._options.items()))
        if key not in _PROGRAMS:
            _PROGRAMS[key] = torch.compile(part, **{"dynamic": True, "fullgraph": True, **self._options})
        return _PROGRAMS[key](self._block, *given)


def _whole(block: BaseBlock, x: Tensor) -> Tensor:
    return block.whole(x)


def _project(block: BaseBlock, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    p = block.project(x, rope)
    return p.q, p.k, p.v, p.gate


def _attend(
    block: BaseBlock,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    gate: Tensor | None,
    rows: Tensor | None,
    bias: Tensor | None,
    policy: Tensor | None,
) -> Tensor:
    return block.attend(Projection(q, k, v, scale, gate), rows, bias, policy)


def _merge(block: BaseBlock, out: Tensor, gate: Tensor | None) -> Tensor:
    return block.merge_heads(out, gate)


def _feed(block: BaseBlock, x: Tensor, channels: Tensor | None) -> Tensor:
    return block.feed(x, channels)
