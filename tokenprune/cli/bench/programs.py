"""Counts the programs that torch.compile makes of each selector's model, and the breaks in a pass, and compares results with eager ones.

Programs run by torch's eager backend, so that a difference comes from the trace. Images are of two sizes, each in two batch sizes.
"""

import copy
import time
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import Spread
from tokenprune.engine.compiling import compile
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.registry import get

DEPTH, SIDES, BATCHES = 3, (128, 160), (3, 5)
PLAN = {"name": "stages", "blocks": [1], "keep_rate": 0.7}


class Counter:
    """Is a backend of torch.compile that runs programs as they are and counts them."""

    def __init__(self) -> None:
        self.programs = 0

    def __call__(self, program: Any, inputs: Any) -> Any:
        """Return what runs the program."""
        self.programs += 1
        return program.forward


def measure(setup: Setup) -> list[Finding]:
    """Return breaks, programs, the largest difference from eager and the seconds of tracing, for each selector in evaluation and training.

    One break is allowed, for all decisions, where only the images say how many tokens stay; `compile` then makes programs of blocks.
    """
    vit, found = setup.model(setup.large, depth=DEPTH, img_size=SIDES[0], dynamic_img_size=True), []
    for name in setup.chosen():
        for train in (False, True):
            torch.manual_seed(0)
            model = prune(copy.deepcopy(vit), name, schedule=PLAN).train(train)
            found += _counted(model, f"{name}, {'training' if train else 'evaluation'}", _sides(name))
    return found


def _sides(name: str) -> tuple[int, ...]:
    """Return the sizes of images: one where the number of new tokens is part of the weights."""
    return SIDES[:1] if get("selector", name).mixing else SIDES


def _counted(model: PrunedViT, case: str, sides: tuple[int, ...]) -> list[Finding]:
    torch.compiler.reset()
    counters.clear()
    counter, begun, apart = Counter(), time.thread_time(), 0.0
    compiled = torch.compile(model, backend=counter)
    _seeded(compiled, _images(sides[0], BATCHES[0]))
    breaks = sum(counters["graph_break"].values())
    if model.asks_host:  # the whole pass was left out, with one break
        compiled = compile(copy.deepcopy(model), backend=counter)
    for side in sides:
        for batch in BATCHES:
            images = _images(side, batch)
            apart = max(apart, float((_seeded(compiled, images) - _seeded(model, images)).abs().max()))
    torch.compiler.reset()
    limits = (1.0, None) if model.asks_host else (0.0, float(len(sides)))
    numbers = {
        "torch.compile: breaks in a pass": (breaks, limits[0]),
        "torch.compile: programs": (counter.programs, limits[1]),
        "torch.compile: largest difference from eager": (apart, 1e-5),
        "torch.compile: seconds of tracing": (time.thread_time() - begun, None),
    }
    return [Finding(goal, case, Spread(value, value, value), limit) for goal, (value, limit) in numbers.items()]


def _images(side: int, batch: int) -> Tensor:
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
    torch._dynamo.mark_dynamic(images, 0)
    return images


def _seeded(model: PrunedViT, images: Tensor) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(images)
