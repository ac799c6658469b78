"""Switches modules between their training and evaluation modes."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside the `with`, and each module back in its own mode afterwards.

    `model.train()` would not do this: it also switches on modules that are off on purpose (DropPath under `training.drop_path=false`).
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
