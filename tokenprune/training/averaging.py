"""Averages a model's weights over training, through timm; the average is evaluated and saved in place of the weights."""

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn


class WeightAverage:
    """Moves an average w to decay * w + (1 - decay) * weights after each step, starting from the first weights.

    Buffers are averaged as well; whole numbers are copied.

    Args:
        model: The model, on its device, before anything wraps it.
        decay: Decay of the average. None keeps no average, and all methods then do nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        """Copy the first weights."""
        self.kept = None if decay is None else ModelEmaV3(model, decay=decay)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        if self.kept is not None:
            self.kept.update(model)

    def state(self) -> dict[str, Any] | None:
        """Return the part of a checkpoint that holds the average."""
        return None if self.kept is None else self.kept.module.state_dict()

    def resume(self, state: dict[str, Any] | None) -> None:
        """Continue from the value that `state` returned."""
        if self.kept is not None:
            self.kept.module.load_state_dict(state)

    @torch.no_grad()
    def give(self, model: nn.Module) -> None:
        """Copy the average into a model."""
        if self.kept is not None:
            model.load_state_dict(self.kept.module.state_dict())
