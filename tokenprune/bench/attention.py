"""Goals of attention that a selector reads: the class token's row beside fused attention, in time and in memory."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenprune.bench.goals import Finding, Setup
from tokenprune.bench.timing import Spread, interleaved, one_thread, ratio
from tokenprune.blocks.base import BaseBlock
from tokenprune.execution import run_block
from tokenprune.pruning import prune
from tokenprune.selectors.observation import Observation
from tokenprune.state import TokenState
from tokenprune.visibility import Policy

EVEN = Policy("gathered", False, lambda state: None)


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
    peak = allocated(partial(attention_with_row, block, seen)) / (q.numel() * q.element_size())
    return [*found, Finding("attention memory, sizes of q", case, Spread(peak, peak, peak), 4.0)]


def attention_with_row(block: BaseBlock, seen: Observation) -> tuple[Tensor, Tensor]:
    """Return the attention branch and the class token's row: what an attention-based selector makes a block compute."""
    return block.attend(seen.projection), seen.cls_row()


@torch.inference_mode()
def allocated(call: Callable[[], Any]) -> int:
    """Return the most bytes that a call holds at a time on the CPU, beyond what there was before it."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(e["ts"], int(e["args"]["Bytes"])) for e in events if e.get("name") == "[memory]" and e["args"].get("Device Type") == 0]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most
