"""Cropr's router with seeded parameters, and tokens for it to look at."""

from typing import Any

import torch

from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.engine.state import TokenState
from tokenprune.methods.selectors.cropr import CroprRouter

LLF, PER_BLOCK = "last_layer_fusion", "per_block"
VARIANTS = [{}, {"queries": 3}, {"heads": 3}, {"heads": 3, "queries": 2}, {"mlp": False}, {"salient": False}, {"select": "sampling"}]


def router(dim: int = 12, classes: int = 5, **options: Any) -> CroprRouter:
    """Return a router none of whose parameters is at its first value of 0 or 1."""
    torch.manual_seed(7)
    context = Context(dim, 3, 1, Budget(1, 4, 9, 4 / 9), 6, 1, classes)
    made = CroprRouter(context, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return made


def observed(
    batch: int = 2, slots: int = 9, dim: int = 12, prefix: int = 1, live: torch.Tensor | None = None, seed: int = 0
) -> Observation:
    """Return random tokens (batch,slots,dim) of which `live` are there, all if None."""
    generator = torch.Generator().manual_seed(seed)
    head, tokens = (torch.randn(batch, n, dim, generator=generator) for n in (prefix, slots))
    state = TokenState.start(head, tokens, (1, slots), torch.randn(batch, 3, 4, 4 * slots, generator=generator))
    return Observation(state if live is None else state.replace(live=live, complete=False), 1)
