"""Calls hooks of modules that the engine runs part by part, so that torch does not call them: blocks, attention, the timm model."""

from typing import Any

from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.utils.hooks import BackwardHook

_IDLE_AT_TEST = (nn.Dropout, DropPath)


def hooked(module: nn.Module) -> bool:
    """Tell whether a module has hooks of its own."""
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks)


def passed(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a module makes of x; one that changes nothing, and that nobody watches, is not called, which takes a small model long."""
    kind = type(module)
    idle = kind is nn.Identity or (kind in _IDLE_AT_TEST and not module.training)
    return x if idle and not hooked(module) and not _all_watched() else module(x)


def _all_watched() -> bool:
    """Tell whether somebody watches all modules (`torch.nn.modules.module.register_module_forward_hook` and its like)."""
    return bool(_global_forward_pre_hooks or _global_forward_hooks)


class HookCall:
    """One call of a module as its hooks see it: `enter` with its input, then `leave` with its output.

    Hooks get the module, its one input in a tuple and, after it, its output, as `nn.Module.__call__` gives them; what they return counts.

    Args:
        module: A module with hooks.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._input = module, ()
        backward = list(module._backward_hooks.values()), list(module._backward_pre_hooks.values())
        self._backward = BackwardHook(module, *backward) if any(backward) else None

    @classmethod
    def of(cls, module: nn.Module) -> "HookCall | None":
        """Return the call of a module, None where it has no hooks."""
        return cls(module) if hooked(module) else None

    def enter(self, x: Tensor) -> Tensor:
        """Return the input of the module, as the hooks in front of it leave it."""
        module, args, kwargs = self._module, (x,), {}
        for key, hook in module._forward_pre_hooks.items():
            if key in module._forward_pre_hooks_with_kwargs:
                found = hook(module, args, kwargs)
                args, kwargs = (args, kwargs) if found is None else found
            elif (found := hook(module, args)) is not None:
                args = found if isinstance(found, tuple) else (found,)
        self._input = args if self._backward is None else self._backward.setup_input_hook(args)
        return self._input[0]

    def leave(self, out: Tensor) -> Tensor:
        """Return the output of the module, as the hooks behind it leave it."""
        module = self._module
        result: Any = out
        for key, hook in module._forward_hooks.items():
            given: tuple[Any, ...] = ({},) if key in module._forward_hooks_with_kwargs else ()
            found = hook(module, self._input, *given, result)
            result = result if found is None else found
        if self._backward is not None:
            result = self._backward.setup_output_hook(result)
        return result
