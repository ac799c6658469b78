"""Defines goals and findings: a goal has a name, a limit and a direction; a finding is one measured case of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from tokenprune.cli.bench.timing import Spread


@dataclass(frozen=True)
class Setup:
    """Sets the sizes and the effort of a run; the defaults are the goals' own sizes.

    Args:
        rounds: How often everything is timed.
        batches: Batch sizes.
        small: timm model of the 224-pixel goals.
        large: timm model of the detection-size goals.
        pixels: Size (h,w) of the images of the detection-size goals.
        long: N of the attention-memory goal, a square number.
        samples: N of the sampling goal.
        options: Further arguments of `timm.create_model`.
    """

    rounds: int = 9
    batches: tuple[int, ...] = (1, 8, 32)
    small: str = "deit_small_patch16_224"
    large: str = "deit_tiny_patch16_224"
    pixels: tuple[int, int] = (800, 1344)
    long: int = 4096
    samples: int = 4200
    options: Mapping[str, Any] = field(default_factory=dict)

    def model(self, name: str, **options: Any) -> nn.Module:
        """Return a timm model in eval mode with random weights, which are as fast as trained ones."""
        return timm.create_model(name, **{**self.options, **options}).eval()


@dataclass(frozen=True)
class Finding:
    """Holds one measured case.

    Attributes:
        goal: Name of the goal.
        case: Name of the case.
        value: The measured value.
        limit: Its limit; None for a fact without a goal.
        at_least: Whether `value` must be at least the limit; otherwise it must be at most the limit.
    """

    goal: str
    case: str
    value: Spread
    limit: float | None
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Tell if the median meets the limit; always if there is none."""
        if self.limit is None:
            return True
        return self.value.median >= self.limit if self.at_least else self.value.median <= self.limit


Measure = Callable[[Setup], Sequence[Finding]]


@dataclass(frozen=True)
class Benchmark:
    """Holds a group of goals that are measured together, and its text in `--list`."""

    name: str
    text: str
    measure: Measure
