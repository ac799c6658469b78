"""Operators that torch's ONNX exporter has no translation for. Needs onnxscript; import it only to export."""

from collections.abc import Callable
from typing import Any

import torch


def stable_sorts() -> dict[Any, Callable[..., Any]]:
    """Return translations of stable sorts: ONNX's TopK over all entries, where the entry of lower index wins a tie."""
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18  # its own types leave out what its operators return

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        if self.dtype in (TensorProto.UINT8, TensorProto.BOOL):  # which runtimes do not rank
            self = op.Cast(self, to=TensorProto.INT32)
        entries = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, entries, axis=dim, largest=int(descending), sorted=1)

    def argsort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        return sort(self, stable, dim, descending)[1]

    return {torch.ops.aten.sort.stable: sort, torch.ops.aten.argsort.stable: argsort}
