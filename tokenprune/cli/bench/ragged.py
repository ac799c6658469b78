"""Measures goals of counts that differ between images: a block against a uniform one, and all of SViT against its oracle."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenprune.cli.bench.fixed import sliced
from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.decision import Decision
from tokenprune.engine.execution import BlockUsage, run_block
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.policy import DeadSlotRule, settle
from tokenprune.engine.prune import prune
from tokenprune.engine.selector import Selector
from tokenprune.engine.state import TokenState

RATES = (0.7, 0.49, 0.343)
BLOCK_SPREAD, MODEL_SPREAD = 0.12, 0.10  # standard deviation of an image's count, as a share of N


def measure_block(setup: Setup) -> list[Finding]:
    """Return the time of a block on uneven counts, finding and writing the rows included, over a block of equal counts."""
    vit, found = setup.model(setup.small), []
    model = prune(vit)
    block, N = model.family.blocks[0], model.family.own_positions
    even, uneven = (DeadSlotRule(mode, True, lambda state: None, stay=True) for mode in ("gathered", "packed"))
    for batch in (b for b in setup.batches if b > 1):
        with torch.inference_mode():
            whole = model.start(torch.randn(batch, *vit.default_cfg["input_size"]))
        for rate in RATES:
            live = masks(batch, N, rate, BLOCK_SPREAD)
            same = whole.replace(tokens=whole.tokens[:, : round(float(live.sum(1).float().mean()))].clone())
            M = same.tokens.shape[1]
            same = same.replace(index=whole.index[:, :M], live=whole.live[:, :M], complete=True, all_placed=True)
            calls = {
                "ragged": partial(_decided_block, block, whole.replace(live=live), uneven),
                "uniform": partial(run_block, block, same, even),
            }
            case = f"keep {rate}, batch {batch}"
            seconds = interleaved(calls, setup.rounds, f"ragged block, {case}")
            found.append(Finding("ragged block / uniform", case, ratio(seconds["ragged"], seconds["uniform"]), 1.10))
    return found


def measure_svit(setup: Setup) -> list[Finding]:
    """Return the oracle's time over SViT's. SViT pays for its gates and draws counts around the schedule; the oracle has their mean."""
    vit, found = setup.model(setup.small), []
    for batch in setup.batches:
        model = prune(vit, "svit")
        images = torch.randn(batch, *vit.default_cfg["input_size"])
        for number, budget in model.budgets(model.family.own_positions).items():
            fix_counts(model, number, masks(batch, model.family.own_positions, float(budget.rate), MODEL_SPREAD))
        with torch.inference_mode():
            used = model.encode(images).usage
        calls = {"svit": partial(model, images), "oracle": partial(sliced, prune(vit), held(used), images)}
        seconds = interleaved(calls, setup.rounds, f"SViT, batch {batch}")
        found.append(Finding("slice oracle / SViT", f"batch {batch}", ratio(seconds["oracle"], seconds["svit"]), 0.90, at_least=True))
    return found


def masks(batch: int, positions: int, rate: float, spread: float) -> Tensor:
    """Return keep masks (B,N) of random places: counts normal around rate * N, at least 1, at most N."""
    generator = torch.Generator().manual_seed(0)
    counts = (rate + spread * torch.randn(batch, generator=generator)) * positions
    order = torch.rand(batch, positions, generator=generator).argsort(1).argsort(1)
    return order < counts.round().clamp(1, positions).unsqueeze(1)


def fix_counts(model: PrunedViT, number: int, keep: Tensor) -> None:
    """Make a block's selector decide for `keep` (B,N), after it has scored as always."""
    selector: Selector = model.selectors[str(number)]
    original = selector.score

    def score(seen: Any, budget: Any) -> Decision:
        return original(seen, budget).replace(keep=keep)

    selector.score = score  # type: ignore[method-assign]


def _decided_block(block: Any, state: TokenState, policy: DeadSlotRule) -> Any:
    return run_block(block, settle(state, policy), policy)


def held(used: Any) -> Any:
    """Return the usage without growth. The slice oracle cannot bring tokens back, so a mean that rises by chance keeps its value."""
    result, least = [], float("inf")
    for u in used:
        least = min(least, float(u.attended.float().mean()))
        now = torch.tensor([least])
        result.append(BlockUsage.even(now))
    return result
