"""A CUDA device that is only pretended: tensors that say `cuda` and are computed on the CPU, and a list of what makes the host wait.

Programs take the ways that they take on CUDA, on real numbers, at the speed of a CPU. As on a device, an operation takes no tensors of two
devices (a CPU scalar excepted), and a factory needs to be told the device. `torch._subclasses.FakeTensorMode` checks the same and holds no
numbers, so that nothing that depends on them can run (`helpers.fake_cuda`); it is 10 times slower.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
# The size of their result is known to the device alone.
UNSIZED = {"nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount", "equal", "argwhere"}
COPIES = {"_to_copy", "copy_", "copy"}


class OnCuda(Tensor):
    """Is a tensor that says it is on CUDA; its numbers are `held` on the CPU."""

    waits: ClassVar[list[str]] = []  # names of what made the host wait, since `pretended_cuda` was entered
    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCuda":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": CUDA}
        made = Tensor._make_wrapper_subclass(cls, held.shape, **layout)
        made.held = held
        return made

    def tolist(self):
        """Return the numbers; the host waits once for all of them."""
        self.waits.append("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Run an operation outside of the mode, such as `detach` of a parameter that is being made."""
        return _run(func, args, kwargs or {})


class _Pretended(TorchDispatchMode):
    """Sees every operation, those without a tensor among their arguments included."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    name, flat = func.overloadpacket.__name__, pytree.arg_tree_leaves(*args, **kwargs)
    here, there = _on(flat, OnCuda), [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnCuda)]
    lands = bool(here) if kwargs.get("device") is None else torch.device(kwargs["device"]).type == "cuda"
    _note(name, here, there, lands, args, kwargs)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain, named = pytree.tree_map_only(OnCuda, lambda t: t.held, (args, kwargs))
    if name in ("_softmax", "_log_softmax") and plain[2]:  # CUDA's own way from half to float in one kernel
        plain = (plain[0].float(), plain[1], False)
    result = _varlen(*plain) if name == "_varlen_attn" else func(*plain, **named)
    if func._schema.is_mutable and isinstance(args[0], Tensor):
        return args[0]
    return pytree.tree_map_only(Tensor, OnCuda, result) if lands else result


def _on(values, kind):
    return [value for value in values if isinstance(value, kind)]


def _note(name, here, there, lands, args, kwargs) -> None:
    """Note what makes the host wait, and refuse what a device would refuse."""
    if name in COPIES:
        if (here and not lands) or (there and lands):
            OnCuda.waits.append("copy between cpu and cuda")
        return
    if here and any(t.dim() for t in there):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu")
    if here and name == "_local_scalar_dense":
        OnCuda.waits.append("item")
    if here and (name in UNSIZED or asks_for_size(name, args, kwargs)):
        OnCuda.waits.append(name)


def asks_for_size(name, args, kwargs) -> bool:
    """Tell whether the size of an operation's result depends on the numbers of a tensor."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None and not isinstance(args[-1], int)
    masks = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
    return any(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks)


def _varlen(q, k, v, starts_q, starts_k, *_):
    """Compute torch's `varlen_attn`, which has no kernel for a CPU, image by image: q, k, v (T,h,d), starts (B+1,) int32."""
    if q.dtype not in (torch.float16, torch.bfloat16) or starts_q.dtype != torch.int32:
        raise RuntimeError(f"varlen_attn: got {q.dtype} and starts of {starts_q.dtype}; FlashAttention takes half precision and int32")
    parts = []
    for image in range(len(starts_q) - 1):
        asked, seen = (slice(int(s[image]), int(s[image + 1])) for s in (starts_q, starts_k))
        one = (t[rows].transpose(0, 1).unsqueeze(0) for t, rows in ((q, asked), (k, seen), (v, seen)))
        parts.append(F.scaled_dot_product_attention(*one)[0].transpose(0, 1))
    out = torch.cat([*parts, q.new_zeros(len(q) - int(starts_q[-1]), *q.shape[1:])])
    return out, q.new_zeros(q.shape[1], len(q), dtype=torch.float32), torch.zeros(2, dtype=torch.int64)


@contextmanager
def pretended_cuda() -> Iterator[list[str]]:
    """Run what is inside as on a device of compute capability 9.0; the value lists what makes the host wait."""
    torch._C._ensureCUDADeviceGuardSet()
    OnCuda.waits.clear()
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.enter_context(patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)))
        stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(_Pretended())
        yield OnCuda.waits


def moved(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Put a model's parameters and buffers on the pretended device, as `model.to` would; nothing else of it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnCuda(_as(parameter, dtype)), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnCuda(_as(buffer, dtype))
    return model


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
