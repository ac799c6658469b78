"""Defines goals and findings: a goal has a name, a limit and a direction; a finding is one measured case of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from torch import nn

from tokenprune.cli.bench.timing import Spread
from tokenprune.registry import get, names


@dataclass(frozen=True)
class Setup:
    """Sets the sizes and the effort of a run; the defaults are the goals' own sizes.

    Args:
        rounds: How often everything is timed at least.
        batches: Batch sizes.
        small: timm model of the 224-pixel goals.
        large: timm model of the detection-size goals.
        pixels: Size (h,w) of the images of the detection-size goals.
        long: N of the attention-memory goal, a square number.
        samples: N of the sampling goal.
        lengths: N of the growth of decisions, square numbers, ascending.
        selectors: Selectors whose decisions and programs are measured; none for all that drop tokens.
        options: Further arguments of `timm.create_model`.
    """

    rounds: int = 9
    batches: tuple[int, ...] = (1, 8, 32)
    small: str = "deit_small_patch16_224"
    large: str = "deit_tiny_patch16_224"
    pixels: tuple[int, int] = (800, 1344)
    long: int = 4096
    samples: int = 4200
    lengths: tuple[int, ...] = (196, 784, 2304, 4096, 9216)
    selectors: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def model(self, name: str, **options: Any) -> nn.Module:
        """Return a timm model in eval mode with random weights, which are as fast as trained ones."""
        return timm.create_model(name, **{**self.options, **options}).eval()

    def chosen(self) -> list[str]:
        """Return `selectors`, or all registered ones that drop tokens."""
        return [n for n in names("selector") if (n in self.selectors if self.selectors else get("selector", n).saves_computation)]


@dataclass(frozen=True)
class Finding:
    """Holds one measured case.

    Attributes:
        goal: Name of the goal.
        case: Name of the case.
        value: The measured value.
        limit: Its limit; None for a fact without a goal.
        at_least: Whether `value` must be at least the limit; otherwise it must be at most the limit.
        curve: Name of the curve that the case lies on, and its place there (N, or images in a batch); None for none.
    """

    goal: str
    case: str
    value: Spread
    limit: float | None
    at_least: bool = False
    curve: tuple[str, float] | None = None

    @property
    def met(self) -> bool:
        """Tell if the median meets the limit; always if there is none."""
        if self.limit is None:
            return True
        return self.value.median >= self.limit if self.at_least else self.value.median <= self.limit


Measure = Callable[[Setup], Sequence[Finding]]
Draw = Callable[[Sequence[Finding], Path], None]


@dataclass(frozen=True)
class Benchmark:
    """Holds a group of goals that are measured together.

    Attributes:
        name: Name on the command line, and of the picture.
        text: Text in `--list`.
        measure: Returns the findings.
        draw: Draws them into a file; None for no picture.
    """

    name: str
    text: str
    measure: Measure
    draw: Draw | None = None
