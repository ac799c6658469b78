"""The walk over blocks: blocks that nothing touches run as the model's own, one after the other; the others step by step."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokenprune.engine.blocks.base import BaseBlock, ProjectionView
from tokenprune.engine.execution import BlockUsage, unhidden
from tokenprune.engine.indexing import recorded_by_jit
from tokenprune.engine.loss import noted
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import DeadSlotRule, Decide, visibility
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector
from tokenprune.engine.state import TokenState

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT


def rule_of(model: "PrunedViT") -> DeadSlotRule:
    """Return how a pass treats what is not live, in the model's present mode."""
    selectors, mode, treatment = list(model.selectors.values()), model.mode(), model.treatment
    if mode == "packed" and model.execution == "auto" and recorded_by_jit():
        warnings.warn(
            "token counts of this selector depend on the image, and a traced program has fixed ones: it computes every token and"
            " hides the dropped ones, so it is right for any image and saves nothing; do not count its FLOPs or time it",
            stacklevel=2,
        )
        mode = "masked"
    soft = model.training and any(s.gated for s in selectors) and selectors[0].visibility == "soft"
    fade = soft and not treatment.remembers  # released DynamicViT: dropped tokens go on being updated, unseen
    return DeadSlotRule(mode, treatment.fills_canvas, treatment.key_bias, soft, fade, treatment.may_revive)


def run_blocks(
    model: "PrunedViT", state: TokenState, start: int, stop: int, policy: DeadSlotRule
) -> tuple[TokenState, tuple[BlockUsage, ...]]:
    """Run blocks start ... stop-1 of a model under a policy; return the state after them and the tokens that each of them used."""
    budgets, blocks = model.budgets(state.positions), model.adapters
    usage: list[BlockUsage] = []
    saves = model.family.recomputes and torch.is_grad_enabled()
    last = stop if model.listener is None else min(stop, model.listener.block + 1)
    while start < last:
        ahead = start if saves else untouched_until(model, state, start, last, budgets, policy)
        if ahead == start:
            state, used = checkpointed(model, state, start, budgets, policy) if saves else model.step(state, start, budgets, policy)
            usage.append(used)
            start += 1
            continue
        x, used = state.sequence(), BlockUsage.even(state.counted())
        for number in range(start, ahead):
            x = blocks[number].whole(x)
            usage.append(used)
        state, start = state.with_sequence(x), ahead
    return state, tuple(usage)


def untouched_until(
    model: "PrunedViT", state: TokenState, start: int, stop: int, budgets: Mapping[int, Budget], policy: DeadSlotRule
) -> int:
    """Return the first block from `start` on in which something is decided, watched or hidden; `stop` if there is none."""
    if start in budgets or model.observed(precedes=False) or model.watch is not None or not model.treatment.lets_pass:
        return start
    stop = stop if model.treatment.revive != "last" else min(stop, model.depth - 1)
    blocks, ahead = model.adapters, start
    before = model.observed(precedes=True)  # the block before a decision is watched, and may be the only kind that is
    while ahead < stop and ahead not in budgets and not (before and ahead + 1 in budgets) and blocks[ahead].runs_whole(state):
        ahead += 1
    return ahead if ahead > start and unhidden(state, policy) else start


def checkpointed(model: "PrunedViT", *given: Any) -> tuple[TokenState, BlockUsage]:
    """Return what `model.step` does, and keep none of its activations: the backward pass runs it again."""
    silent = {} if torch.compiler.is_compiling() else {"context_fn": lambda: (nullcontext(), _unwatched(model))}
    run: Any = checkpoint  # torch's overloads do not know functions of several results
    return run(model.step, *given, use_reentrant=False, **silent)


@contextmanager
def _unwatched(model: "PrunedViT") -> Iterator[None]:
    """Keep a second run of a block from those who have heard the first."""
    heard = model.watch, model.probe, model.listener
    model.watch = model.probe = model.listener = None
    try:
        yield
    finally:
        model.watch, model.probe, model.listener = heard


def peeked(adapter: BaseBlock, selector: Selector, state: TokenState, policy: DeadSlotRule) -> tuple[Any, ...]:
    """Return the queries and keys of the block to come, and its key bias, for a selector that reads them before it; () for others."""
    if not selector.peeks:
        return ()
    return adapter.asks(state.sequence(), adapter.codes(state)), visibility(state, policy)[0]


def shown(model: "PrunedViT", number: int, precedes: bool, state: TokenState) -> tuple[TokenState, Decide | None]:
    """Show what enters a block to whoever looks; return the state with what they keep, and who has to see its attention, None for nobody.

    The arguments are those of `seen_by_all`.
    """
    if model.watch is not None:
        model.watch(number, state)
    if not model.observed(precedes):
        return state, None
    see = partial(seen_by_all, model, number, precedes)
    return (state, see) if model.attention_is_read else (see(state, None, None), None)


def seen_by_all(
    model: "PrunedViT", number: int, precedes: bool, state: TokenState, projection: ProjectionView | None, bias: Tensor | None
) -> TokenState:
    """Show the attention of a block to the probe, to the method's hooks and to losses; return the state with what they keep of it.

    Args:
        model: The model.
        number: 0-based block.
        precedes: Whether the next block begins with a decision.
        state: The tokens before the block's attention.
        projection: Its queries, keys and values, None if nobody looks at them.
        bias: Its key bias, (B,P+M), or None.
    """
    seen = Observation(state, number, projection, bias, model.progress, precedes)
    if model.probe is not None:
        model.probe(seen)
    for name, values in model.hooks.observe(seen).items():
        state = state.with_trait(name, values, seen.mask)
    return noted(model.loss_terms, seen, state) if model.training else state
