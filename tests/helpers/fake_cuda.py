"""A CUDA device of torch's fake tensors, which have a shape, a type and a device and no numbers.

A value that the host asks for does not exist, so one is served: counts that differ between images, and False where a mask is asked for.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.pretended_cuda import COPIES, CUDA, UNSIZED, asks_for_size


class _Served(TorchDispatchMode):
    """Serves a value that the host asks for, and notes what makes it wait."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in UNSIZED or asks_for_size(name, args, kwargs):
            raise AssertionError(f"{name} gives a result of a size that only the device knows")
        if name == "_local_scalar_dense" and args[0].device.type == "cuda":
            self.waits.append("item")
            return False if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        result = func(*args, **kwargs)
        if name in COPIES and len({t.device.type for t in (*args, result) if isinstance(t, Tensor)}) > 1:
            self.waits.append("copy between cpu and cuda")
        return result


@contextmanager
def fake_cuda() -> Iterator[list[str]]:
    """Run what is inside on fake tensors, as on a device of compute capability 9.0; the value lists what makes the host wait."""
    waits: list[str] = []

    def counts(tensor: Tensor) -> list[int]:
        waits.append("tolist")
        return [2 + image % 3 for image in range(len(tensor))]

    with ExitStack() as stack:
        stack.enter_context(patch.object(FakeTensor, "tolist", counts))
        stack.enter_context(patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)))
        stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_Served(waits))
        yield waits


def on_cuda(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Put a model's parameters and buffers on the fake device, inside `fake_cuda`, as `model.to` would; nothing else of it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_moved(parameter, dtype), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _moved(buffer, dtype)
    return model


def _moved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device=CUDA)
