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
TIME, BATCH, MEMORY = "decision, ms an image", "decision in a batch, ms an image", "decision, MiB"
GROWTH, HELD = "growth of a decision's time with N", "growth of a decision's memory with N"
_TOLERANCE = 0.1  # of an exponent: what repeated fits differ by
_FITTED = 3  # an exponent is that of the greatest lengths; below them the calls of kernels cost more than the tokens
_ROUNDS = 3  # at most: the greatest lengths take seconds
_LEAST = 1e-6  # MiB: a call that holds nothing has a logarithm, too
_MEBI = 2**20


def measure(setup: Setup) -> list[Finding]:
    """Return time and memory of a decision of each selector at each N, by which powers of N they grow, and its time at each batch size."""
    lengths, batches = _at_lengths(setup), _in_batches(setup)
    return [*grown(GROWTH, lengths, TIME), *grown(HELD, lengths, MEMORY), *(found for found, _ in lengths), *batches]


def _at_lengths(setup: Setup) -> list[tuple[Finding, Sequence[float]]]:
    """Return time and memory at each N, each with the values of all rounds."""
    found: list[tuple[Finding, Sequence[float]]] = []
    for N in setup.lengths:
        for name, call in calls_of(setup, N, 1):
            seconds, peak = _seconds(setup, f"{name}, N={N}", call), _memory(call)
            for goal, values in ((TIME, [1e3 * second for second in seconds]), (MEMORY, [peak] * len(seconds))):
                found.append((Finding(goal, f"{name}, N={N}", Spread.of(values), None, curve=(name, N)), values))
    return found


def _in_batches(setup: Setup) -> list[Finding]:
    N, found = setup.lengths[0], []
    for batch in setup.batches:
        for name, call in calls_of(setup, N, batch):
            case = f"{name}, N={N}, batch {batch}"
            each = [1e3 * second / batch for second in _seconds(setup, case, call)]
            found.append(Finding(BATCH, case, Spread.of(each), None, curve=(name, batch)))
    return found


def grown(goal: str, lengths: Sequence[tuple[Finding, Sequence[float]]], of: str) -> list[Finding]:
    """Return by which power of N what was measured grows, for each curve; the limit is attention's own power and a little.

    Args:
        goal: Name of the goal.
        lengths: Findings at ascending N, each with its values, one a round.
        of: Goal of the findings that count.
    """
    curves: dict[str, list[tuple[float, Sequence[float]]]] = {}
    for found, values in lengths:
        if found.goal == of and found.curve:
            curves.setdefault(found.curve[0], []).append((found.curve[1], values))
    powers = {name: exponents(*zip(*points, strict=True)) for name, points in curves.items()}
    limit = powers[YARDSTICK].median + _TOLERANCE
    return [Finding(goal, f"{name}, exponent", power, limit, curve=(name, math.nan)) for name, power in powers.items()]


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
        if hooks.observes(precedes=True):
            hooks.observe(before[BLOCK - 1])
        treatment.apply(seen.state, selector.score(seen, budget))

    return decide


def exponents(lengths: Sequence[float], measured: Sequence[Sequence[float]]) -> Spread:
    """Return by which power of N values grow over the greatest lengths: the slope of a line through their logarithms, fitted each round.

    Args:
        lengths: N of each measurement, ascending.
        measured: Values at each N, one a round.
    """
    x = torch.tensor(lengths[-_FITTED:], dtype=torch.double).log()
    y = torch.tensor([list(values) for values in measured[-_FITTED:]], dtype=torch.double).clamp(min=_LEAST).log()  # (lengths, rounds)
    x = x - x.mean()
    return Spread.of(((x @ y) / (x @ x)).tolist())


def _seconds(setup: Setup, case: str, call: Call) -> list[float]:
    return interleaved({case: call}, min(setup.rounds, _ROUNDS), case)[case]


def _memory(call: Call) -> float:
    with one_thread():
        return peak_memory(call) / _MEBI
