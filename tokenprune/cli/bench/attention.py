"""Measures goals of attention that a selector reads: the class token's row beside fused attention, in time and in memory."""

from functools import partial

import torch
from torch import Tensor

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import Spread, interleaved, one_thread, ratio
from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.engine.execution import run_block
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import DeadSlotRule
from tokenprune.engine.prune import prune
from tokenprune.engine.state import TokenState
from tokenprune.measure.memory import peak_memory

EVEN = DeadSlotRule("gathered", False, lambda state: None)


def measure(setup: Setup) -> list[Finding]:
    """Return the class row's share of its block in percent, and the peak memory of attention with it in sizes of q."""
    vit, found = setup.model(setup.small), []
    model = prune(vit)
    block, C, side = model.family.blocks[0], model.embed_dim, round(setup.long**0.5)
    for batch, grid in ((max(setup.batches), vit.patch_embed.grid_size), (1, (side, side))):
        tokens = torch.randn(batch, grid[0] * grid[1], C)
        state = TokenState.start(torch.randn(batch, model.prefix_tokens, C), tokens, tuple(grid))
        with torch.inference_mode():
            seen = Observation(state, 0, block.project(state.sequence()))
        calls = {"row": seen.cls_row, "block": partial(run_block, block, state, EVEN)}
        case = f"N={state.positions}, batch {batch}"
        seconds = interleaved(calls, setup.rounds, f"class row, {case}")
        found.append(Finding("class row, % of its block", case, ratio(seconds["row"], seconds["block"], 100.0), 1.5))
    q = seen.projection.q
    with one_thread():
        peak = peak_memory(partial(attention_with_row, block, seen)) / (q.numel() * q.element_size())
    return [*found, Finding("attention memory, sizes of q", case, Spread(peak, peak, peak), 4.0)]


def attention_with_row(block: BaseBlock, seen: Observation) -> tuple[Tensor, Tensor]:
    """Return the attention branch and the class token's row, which a block computes for an attention-based selector."""
    return block.attend(seen.projection), seen.cls_row()
