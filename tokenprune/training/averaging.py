"""The moving average of a model's weights over training, through timm: what is judged and saved in their place."""

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn


class WeightAverage:
    """After each step the average w moves to decay * w + (1 - decay) * weights; it starts from the first weights.

    Buffers are averaged as well, whole numbers copied. decay: None keeps no average, and everything here does nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        """model: on its device, before anything wraps it."""
        self.kept = None if decay is None else ModelEmaV3(model, decay=decay)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        if self.kept is not None:
            self.kept.update(model)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds of it."""
        return None if self.kept is None else self.kept.module.state_dict()

    def resume(self, state: dict[str, Any] | None) -> None:
        """Go on from what `state` returned."""
        if self.kept is not None:
            self.kept.module.load_state_dict(state)

    @torch.no_grad()
    def give(self, model: nn.Module) -> None:
        """Copy the average into a model."""
        if self.kept is not None:
            model.load_state_dict(self.kept.module.state_dict())
