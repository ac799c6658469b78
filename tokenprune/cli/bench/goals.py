"""What is held against what: a goal has a name, a limit and a direction; a finding is one measured case of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from tokenprune.cli.bench.timing import Spread


@dataclass(frozen=True)
class Setup:
    """Sizes and effort of a run; the defaults are the goals' own sizes.

    Args:
        rounds: how often everything is timed. batches: batch sizes.
        small: timm model of the 224-pixel goals. large: timm model of the detection-size goals, on images of `pixels` (h,w).
        long: N of the attention-memory goal, a square number. samples: N of the sampling goal.
        options: further arguments of `timm.create_model`.
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
    """One measured case: `value` is to be at most the limit, or at least it; None is a fact without a goal."""

    goal: str
    case: str
    value: Spread
    limit: float | None
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Tell whether the median meets the limit, if there is one."""
        if self.limit is None:
            return True
        return self.value.median >= self.limit if self.at_least else self.value.median <= self.limit


Measure = Callable[[Setup], Sequence[Finding]]


@dataclass(frozen=True)
class Benchmark:
    """A group of goals that are measured together, with what it says in `--list`."""

    name: str
    text: str
    measure: Measure
