"""Finds outputs that are not finite, so that NaN and infinity end an evaluation and are not judged as predictions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import Diverged


def check_finite(outputs: Any, model: nn.Module, again: Callable[[], Any]) -> None:
    """Check that every number of a model's outputs is finite.

    Args:
        outputs: Tensors, or lists, tuples and mappings of them.
        model: The model.
        again: Runs the model once more on the same input, to find where it begins.

    Raises:
        Diverged: A number is NaN or infinite. The message names the first module whose output is not finite.
    """
    if all_finite(outputs):
        return
    name = first_not_finite(model, again)
    raise Diverged(
        f"outputs are NaN or infinite, first those of {name}: the numbers would mean nothing. Look at the weights that the run starts from,"
        " lower training.lr, or run in full precision"
    )


def all_finite(outputs: Any) -> bool:
    """Tell whether all floating point numbers of tensors, in any nesting of lists, tuples and mappings, are finite."""
    return all(bool(torch.isfinite(t).all()) for t in tensors(outputs))


def first_not_finite(model: nn.Module, again: Callable[[], Any]) -> str:
    """Return the name of the first module that makes a number that is not finite while `again` runs, or what else does."""
    found: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if not found and not all_finite(outputs):
                inside = f"{name or 'the model itself'} ({type(module).__name__})"
                found.append(inside if all_finite(inputs) else f"{inside}, whose input is not finite either")

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        again()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else f"{type(model).__name__}, behind its last module"


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Any]]:
    """Collect the outputs of modules inside the `with`; whoever reads the list empties it."""
    seen: list[Any] = []
    handles = [module.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs)) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tensors(values: Any) -> Iterator[Tensor]:
    """Yield the floating point tensors of a nesting of lists, tuples and mappings."""
    if isinstance(values, Tensor):
        if values.is_floating_point():
            yield values
    elif isinstance(values, Mapping):
        yield from tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)
