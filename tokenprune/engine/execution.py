"""How a block is computed: masked (every slot, dead keys hidden), gathered (equal counts), packed (uneven counts).

What a decision means is written once, on slots (`visibility`); execution only chooses which rows are really computed. All three agree
to float noise, which the tests hold for every legal pairing.
"""

import torch
from torch import Tensor

from tokenprune.engine.ahead import run_ahead
from tokenprune.engine.blocks.base import BaseBlock, Projection
from tokenprune.engine.blocks.module_hooks import HookCall
from tokenprune.engine.indexing import recorded_by_jit
from tokenprune.engine.packed import feed, run_packed
from tokenprune.engine.packing import Packing
from tokenprune.engine.policy import DeadSlotRule, Decide, Decider, Site, held_prefix, settle, visibility, write
from tokenprune.engine.state import Lengths, TokenState, as_lengths


class BlockUsage:
    """Tokens of each image (B,), prefix included: `attended` into the block, `rows` queries, `fed` through the MLP.

    Args:
        attended, rows, fed: (B,) each, or (B, T) as two numbers for T tokens in each image, of which a tensor is made where one is read.
    """

    def __init__(self, attended: Lengths, rows: Lengths, fed: Lengths) -> None:
        self._attended, self._rows, self._fed = attended, rows, fed

    @classmethod
    def even(cls, lengths: Lengths) -> "BlockUsage":
        """Return the usage of a block through which all tokens go, `lengths` of them."""
        return cls(lengths, lengths, lengths)

    @property
    def attended(self) -> Tensor:
        """(B,) tokens that enter the block."""
        return as_lengths(self._attended)

    @property
    def rows(self) -> Tensor:
        """(B,) queries."""
        return as_lengths(self._rows)

    @property
    def fed(self) -> Tensor:
        """(B,) tokens that go through the MLP."""
        return as_lengths(self._fed)


def run_block(
    adapter: BaseBlock,
    state: TokenState,
    policy: DeadSlotRule,
    decider: Decider | None = None,
    see: Decide | None = None,
) -> tuple[TokenState, BlockUsage]:
    """Run one block; return the state after it and how many tokens of each image were really used.

    Args:
        adapter: of the block.
        state: tokens that enter.
        policy: see `DeadSlotRule`.
        decider: the decision inside the block, None for no decision.
        see: an observer of the projections that stores traits.
    """
    entering, at_rows = state.counted(), decider is not None and decider.site is Site.ROWS
    ahead = decider is not None and decider.site is Site.AHEAD
    packed = policy.packs(adapter) and not ahead and (at_rows or not state.known.complete)
    if decider is None and see is None and adapter.runs_whole(state) and unhidden(state, policy):
        return state.with_sequence(adapter.whole(state.sequence())), BlockUsage.even(entering)
    call = HookCall.of(adapter.block)
    if call is not None:
        state = state.with_sequence(call.enter(state.sequence()))
    after = held_prefix(state, (run_packed if packed else run_padded)(adapter, state, policy, decider, see), policy)
    if call is not None:
        after = after.with_sequence(call.leave(after.sequence()))
    fed = entering if decider is None else after.counted()
    return after, BlockUsage(entering, fed if at_rows or ahead else entering, fed)


def unhidden(state: TokenState, policy: DeadSlotRule) -> bool:
    """Tell whether nothing of a state is hidden, biased or faded in a block that runs as the model's own."""
    if recorded_by_jit():  # the older ONNX exporter would fix the sizes that the model's own forward reads
        return False
    plain = state.known.complete and state.prefix_live is None and not (policy.soft and state.gate is not None)
    return plain and policy.key_bias(state) is None


def run_padded(adapter: BaseBlock, state: TokenState, policy: DeadSlotRule, decider: Decider | None, see: Decide | None) -> TokenState:
    """Run one block over every slot, dead keys hidden; the arguments are those of `run_block`."""
    if decider is not None and decider.site is Site.AHEAD:
        return run_ahead(adapter, state, policy, decider.decide, see)
    bias, weights = visibility(state, policy)
    x = state.sequence()
    p = adapter.project(x, adapter.codes(state))
    if see is not None:
        state = see(state, p, bias)
    if decider is not None and decider.site is Site.ROWS:
        state, delta = attend_rows(adapter, state, p, bias, policy, decider.decide)
        x = state.sequence() + delta
        return write(state, x + adapter.feed(x), policy)
    x = x + adapter.attend(p, bias=bias, policy=weights)
    if decider is None:
        return write(state, x + adapter.feed(x), policy)
    return feed(adapter, settle(decider.decide(write(state, x, policy), p, bias), policy), policy)


def attend_rows(
    adapter: BaseBlock, state: TokenState, p: Projection, bias: Tensor | None, policy: DeadSlotRule, decide: Decide
) -> tuple[TokenState, Tensor]:
    """Decide first, then compute the attention of kept queries only; a token fused just now has no query and gets nothing yet."""
    P, M = state.prefix_count, state.tokens.shape[1]
    state = decide(state, p, bias)
    if policy.mode == "masked":
        fresh = state.tokens.shape[1] - M
        return settle(state, policy), torch.nn.functional.pad(adapter.attend(p, bias=bias), (0, 0, 0, fresh))
    slots, real = (state.known.slots, None) if state.known.slots is not None else Packing.of(state.live, P).slots()
    prefix = torch.arange(P, device=slots.device).expand(slots.shape[0], P)
    delta = adapter.attend(p, rows=torch.cat([prefix, slots.clamp(max=M - 1) + P], 1), bias=bias)
    asked = torch.cat([torch.ones_like(prefix, dtype=torch.bool), slots < M], 1)
    return state.compact(slots, real, policy.remember), delta * asked.unsqueeze(-1)
