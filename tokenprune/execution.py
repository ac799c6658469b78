"""How a block is computed: masked (every slot, dead keys hidden), gathered (equal counts), packed (uneven counts).

What a decision means is written once, on slots; execution only chooses which rows are really computed. All three agree to float
noise, which the tests hold for every legal pairing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.blocks.base import BaseBlock, Projection
from tokenprune.blocks.rotary import rotary_rows
from tokenprune.errors import IncompatiblePairing
from tokenprune.state import TokenState

Decide = Callable[[TokenState, Projection, Tensor | None], TokenState]


@dataclass(frozen=True)
class BlockUsage:
    """Tokens of each image (B,), prefix included: `attended` into the block, `rows` queries, `fed` through the MLP."""

    attended: Tensor
    rows: Tensor
    fed: Tensor


@dataclass(frozen=True)
class Policy:
    """How one block treats what is not live.

    mode: masked, gathered or packed. remember: dropped values go to the canvas. key_bias: of a state, (B,M) or None. soft: dead
    keys fade by the gate instead of being hidden (DynamicViT's training). free: dead slots are computed and written too.
    """

    mode: str
    remember: bool
    key_bias: Callable[[TokenState], Tensor | None]
    soft: bool = False
    free: bool = False


def settle(state: TokenState, policy: Policy) -> TokenState:
    """Return the state after a decision as the mode wants it: dead slots gone, or still there and known to be dead."""
    if policy.mode == "masked":
        return state.but(complete=bool(state.live.all()))
    slots, real = state.kept_slots()
    if real is not None and policy.mode == "gathered":
        counts = state.live.sum(1).tolist()
        raise IncompatiblePairing(f"images of a batch keep {min(counts)} to {max(counts)} tokens; gathered needs equal numbers: use packed")
    return state.compact(slots, real, policy.remember)


def run_block(
    block: BaseBlock, state: TokenState, policy: Policy, rows: Decide | None = None, inside: Decide | None = None, see: Decide | None = None
) -> tuple[TokenState, BlockUsage]:
    """Run one block; return the state after it and how many tokens of each image were really used.

    Args:
        block: its adapter.
        state: tokens that enter.
        policy: see `Policy`.
        rows: decision between qkv and attention; inside: between attention and MLP; see: an observer that stores traits.
    """
    P = state.prefix.shape[1]
    entering = state.counts() + P
    if policy.mode == "packed" and not state.complete and not block.block.training and not (rows or inside or see):
        return run_packed(block, state, policy), BlockUsage(entering, entering, entering)
    bias, weights = visibility(state, policy)
    x = state.sequence()
    p = block.project(x, rotary_rows(state, block.number))
    if see is not None:
        state = see(state, p, bias)
    if rows is not None:
        state, delta = attend_rows(block, state, p, bias, policy, rows)
        x = state.sequence() + delta
        asking = state.counts() + P
        return write(state, x + block.feed(x), policy), BlockUsage(entering, asking, asking)
    x = x + block.attend(p, bias=bias, policy=weights)
    if inside is None:
        return write(state, x + block.feed(x), policy), BlockUsage(entering, entering, entering)
    state = settle(inside(write(state, x, policy), p, bias), policy)
    x = state.sequence()
    return write(state, x + block.feed(x), policy), BlockUsage(entering, entering, state.counts() + P)


def attend_rows(
    block: BaseBlock, state: TokenState, p: Projection, bias: Tensor | None, policy: Policy, decide: Decide
) -> tuple[TokenState, Tensor]:
    """Decide first, then compute the attention of kept queries only; a token fused just now has no query and gets nothing yet."""
    P, M = state.prefix.shape[1], state.tokens.shape[1]
    state = decide(state, p, bias)
    if policy.mode == "masked":
        fresh = state.tokens.shape[1] - M
        return settle(state, policy), torch.nn.functional.pad(block.attend(p, bias=bias), (0, 0, 0, fresh))
    slots, real = state.kept_slots()
    prefix = torch.arange(P, device=slots.device).expand(slots.shape[0], P)
    delta = block.attend(p, rows=torch.cat([prefix, slots.clamp(max=M - 1) + P], 1), bias=bias)
    asked = torch.cat([torch.ones_like(prefix, dtype=torch.bool), slots < M], 1)
    return state.compact(slots, real, policy.remember), delta * asked.unsqueeze(-1)


def run_packed(block: BaseBlock, state: TokenState, policy: Policy) -> TokenState:
    """Run a block over live rows only, all images in one row (1,T,C): weight layers at once, attention image by image."""
    B, P = state.prefix.shape[:2]
    alive = torch.cat([state.live.new_ones(B, P), state.live], 1)
    lengths = alive.sum(1).tolist()
    rows = alive.flatten().nonzero().squeeze(1)
    sequence = state.sequence()
    x = sequence.flatten(0, 1).index_select(0, rows).unsqueeze(0)
    mass = policy.key_bias(state)
    bias = None
    if mass is not None:
        bias = torch.cat([mass.new_zeros(B, P), mass], 1).flatten().index_select(0, rows).unsqueeze(0)
    x = x + block.attend_ragged(block.project(x, rotary_rows(state, block.number, rows)), lengths, bias)
    x = x + block.feed(x)
    return state.with_sequence(sequence.flatten(0, 1).index_copy(0, rows, x.squeeze(0)).view_as(sequence))


def visibility(state: TokenState, policy: Policy) -> tuple[Tensor | None, Tensor | None]:
    """Return (key bias, policy weights), each (B,P+M) or None: dead keys get -inf, or fade by the gate under soft visibility."""
    B, P = state.prefix.shape[:2]
    bias = policy.key_bias(state)
    if policy.soft and state.gate is not None:
        weights = torch.cat([state.gate.new_ones(B, P), state.gate], 1)
        return None if bias is None else torch.cat([bias.new_zeros(B, P), bias], 1), weights
    if not state.complete:
        hidden = torch.zeros_like(state.tokens[..., 0]).masked_fill(~state.live, float("-inf"))
        bias = hidden if bias is None else bias + hidden
    return None if bias is None else torch.cat([bias.new_zeros(B, P), bias], 1), None


def write(state: TokenState, x: Tensor, policy: Policy) -> TokenState:
    """Return the state with the sequence x (B,P+M,C); dead slots keep their value unless the policy sets them free."""
    after = state.with_sequence(x)
    if state.complete or policy.free:
        return after
    return after.but(tokens=after.tokens.where(state.live.unsqueeze(-1), state.tokens))
