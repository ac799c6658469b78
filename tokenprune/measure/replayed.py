"""Replays CUDA graphs of a model whose token counts depend on the image: its packed rows are padded to one of a few sizes.

A graph has fixed sizes, so each decision gets a capacity of rows for the whole batch (`engine.capped`). It is a rung of a ladder: what a
first pass used, with some room, rounded up. Each set of capacities is captured once and replayed. After a replay the host reads one flag:
whether more rows were live than fit. If so, the batch runs again as it is, and the capacities grow.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.model import PrunedViT

ROOM = Fraction(11, 10)  # rows of a rung over those that were used
RUNGS = 16  # of a ladder from nothing to all rows of a batch
_CAPTURE_PASSES = 3  # warm-up passes that PyTorch wants before a capture
Pass = Callable[[Tensor], tuple[Tensor, Tensor]]  # images to logits, and whether rows overflowed


class Replayed(nn.Module):
    """Runs a classifier at inference by replaying one CUDA graph a batch shape and set of capacities.

    Args:
        model: A deployed model in eval mode on CUDA, with selectors whose counts vary. It must not be changed afterwards.
        capture: Makes a pass of fixed sizes replayable, given it and an example of its images; None captures a CUDA graph.

    Attributes:
        missed: How many batches did not fit and ran again.
    """

    def __init__(self, model: PrunedViT, capture: Callable[[Pass, Tensor], Pass] | None = None) -> None:
        super().__init__()
        self.model, self._capture, self.missed = model, capture or captured_pass, 0
        self._rungs: dict[torch.Size, dict[int, int]] = {}
        self._passes: dict[Any, Pass] = {}

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images (B,3,h,w)."""
        shape = images.shape
        if shape not in self._rungs:
            return self._as_it_is(images)
        key = (shape, images.dtype, tuple(self._rungs[shape].items()))
        if key not in self._passes:
            capacities = dict(self._rungs[shape])
            self._passes[key] = self._capture(lambda given: self._capped(given, capacities), images)
        logits, overflow = self._passes[key](images)
        if bool(overflow):  # the one look at the device of a pass
            self.missed += 1
            return self._as_it_is(images)
        return logits.clone()  # the next replay writes its own there

    def _as_it_is(self, images: Tensor) -> Tensor:
        """Run a pass that asks the device for its sizes, and set rungs on which it would have fitted."""
        outputs = self.model.encode(images)
        used = {number: int(outputs.usage[number].fed.sum()) for number in self.model.budgets(outputs.state.positions)}
        everything = images.shape[0] * (outputs.state.positions + self.model.prefix_tokens)
        before = self._rungs.get(images.shape, {})
        self._rungs[images.shape] = {number: max(rung(rows, everything), before.get(number, 0)) for number, rows in used.items()}
        return self.model.logits(outputs)

    def _capped(self, images: Tensor, capacities: Mapping[int, int]) -> tuple[Tensor, Tensor]:
        """Run a pass of fixed sizes; return its logits, and whether rows overflowed."""
        self.model.capacities = capacities
        try:
            outputs = self.model.encode(images)
        finally:
            self.model.capacities = None
        flags = [flag for name, _, flag in outputs.aux if name == "overflow"]
        return self.model.logits(outputs), torch.stack(flags).any()


def rung(rows: int, everything: int) -> int:
    """Return the capacity for a number of rows: with some room, rounded up to a multiple of a 16th of all rows of the batch."""
    step = math.ceil(everything / RUNGS)
    return min(everything, math.ceil(rows * ROOM / step) * step)


def captured_pass(run: Callable[[Tensor], Any], images: Tensor) -> Callable[[Tensor], Any]:
    """Return a call that copies images into a CUDA graph of `run` and replays it; what it returns is written anew by each replay.

    Raises:
        RuntimeError: The pass asks the device for a number, or one of its operations cannot be captured.
    """
    inputs, graph, side = images.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_CAPTURE_PASSES):
            run(inputs)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        results = run(inputs)

    def replay(images: Tensor) -> Any:
        inputs.copy_(images)
        graph.replay()
        return results

    return replay
