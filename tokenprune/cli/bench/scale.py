"""Measures how the cost of one decision grows with the number of tokens and with the batch, in time and in memory, for every selector.

A decision is what the selector computes at one block, what its hooks observe in the block before, and what the treatment makes of it. It
is taken on what a pass of a small ViT with random weights shows there, and timed alone. Fused attention of the same block is the yardstick.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import Call, Spread, interleaved, one_thread
from tokenprune.engine.hooks import DecisionListener
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.prune import prune
from tokenprune.measure.memory import peak_memory

DEPTH, BLOCK = 3, 1
PLAN = {"name": "stages", "blocks": [BLOCK], "keep_rate": 0.7}
YARDSTICK = "attention"
TIME, BATCH, MEMORY, GROWTH = "decision, ms an image", "decision in a batch, ms an image", "decision, MiB", "growth of a decision with N"
_TOLERANCE = 0.1  # of an exponent: what repeated fits differ by
_FITTED = 3  # an exponent is that of the greatest lengths; below them the calls of kernels cost more than the tokens
_ROUNDS = 3  # at most: the greatest lengths take seconds
_MEBI = 2**20


def measure(setup: Setup) -> list[Finding]:
    """Return time and memory of a decision of each selector at each N, its time at each batch size, and by which power of N it grows."""
    rounds, found = min(setup.rounds, _ROUNDS), []
    seconds: dict[str, list[list[float]]] = {}
    for N in setup.lengths:
        for name, call in calls_of(setup, N, 1):
            case = f"{name}, N={N}"
            taken = interleaved({name: call}, rounds, case)[name]
            seconds.setdefault(name, []).append(taken)
            found.append(Finding(TIME, case, Spread.of([1e3 * t for t in taken]), None, curve=(name, N)))
            found.append(Finding(MEMORY, case, _memory(call), None, curve=(name, N)))
    for batch in setup.batches:
        for name, call in calls_of(setup, setup.lengths[0], batch):
            case = f"{name}, N={setup.lengths[0]}, batch {batch}"
            each = [1e3 * t / batch for t in interleaved({name: call}, rounds, case)[name]]
            found.append(Finding(BATCH, case, Spread.of(each), None, curve=(name, batch)))
    growth = {name: exponents(setup.lengths, taken) for name, taken in seconds.items()}
    limit = growth[YARDSTICK].median + _TOLERANCE
    return [Finding(GROWTH, f"{name}, exponent", value, limit, curve=(name, math.nan)) for name, value in growth.items()] + found


def calls_of(setup: Setup, N: int, batch: int) -> Iterator[tuple[str, Call]]:
    """Yield attention, and each selector that drops tokens, with the call that is timed on a batch of images of N tokens."""
    side = math.isqrt(N) * 16
    vit = setup.model(setup.large, depth=DEPTH, img_size=side)
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    model = prune(vit)
    with torch.inference_mode():
        block = model.family.blocks[0]
        yield YARDSTICK, partial(block.attend, block.project(model.start(images).sequence()))
    for name in setup.chosen():
        torch.manual_seed(0)
        yield name, decision_of(prune(vit, name, schedule=PLAN, positions=N).deploy(), images)


@torch.inference_mode()
def decision_of(model: PrunedViT, images: Tensor) -> Call:
    """Return the call that decides at block `BLOCK` of images (B,3,h,w), given what a pass shows there."""
    heard: list[tuple] = []
    before: list[Observation] = []
    model.listener, model.probe = DecisionListener(BLOCK, lambda *given: heard.append(given)), before.append
    model.run(model.start(images), 0, DEPTH)
    seen, budget, _ = heard[-1]
    selector, treatment, hooks = model.selectors[str(BLOCK)], model.treatment.at(BLOCK, DEPTH), model.hooks

    def decide() -> None:
        if hooks.observes:
            hooks.observe(before[BLOCK - 1])
        treatment.apply(seen.state, selector.score(seen, budget))

    return decide


def exponents(lengths: Sequence[int], seconds: Sequence[Sequence[float]]) -> Spread:
    """Return by which power of N seconds grow over the greatest lengths: the slope of a line through their logarithms, fitted each round.

    Args:
        lengths: N of each measurement, ascending.
        seconds: Seconds at each N, one a round.
    """
    x = torch.tensor(lengths[-_FITTED:], dtype=torch.double).log()
    y = torch.tensor([list(s) for s in seconds[-_FITTED:]], dtype=torch.double).log()  # (lengths, rounds)
    x = x - x.mean()
    return Spread.of(((x @ y) / (x @ x)).tolist())


def _memory(call: Call) -> Spread:
    with one_thread():
        peak = peak_memory(call) / _MEBI
    return Spread(peak, peak, peak)
