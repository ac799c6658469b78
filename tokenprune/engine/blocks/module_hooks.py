"""Calls hooks of modules that the engine runs part by part, so that torch does not call them: blocks, attention, the timm model."""

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import BackwardHook

_KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


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
        return cls(module) if any(getattr(module, kind) for kind in _KINDS) else None

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
