"""What a decision means for the slots of a block, whichever way the block is computed: who is gone, who is seen, who is written."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock, ProjectionView
from tokenprune.engine.capped import CappedPacking
from tokenprune.engine.indexing import traced
from tokenprune.engine.packing import Packing
from tokenprune.engine.state import TokenState
from tokenprune.errors import IncompatiblePairing

Decide = Callable[[TokenState, ProjectionView, Tensor | None], TokenState]


class Site(str, Enum):
    """Where a decision is taken; equal to its name, so that a selector may also say `site = "rows"`."""

    BEFORE = "before"  # before the block
    AHEAD = "ahead"  # after the block's attention map, which is then grouped as the tokens are; their values are made of what stays
    ROWS = "rows"  # after qkv, before attention: dropped tokens ask no query
    INSIDE = "inside"  # after attention, before the MLP

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Decider:
    """A decision that is taken in the middle of a block.

    Args:
        site: `Site.AHEAD`, `Site.ROWS` or `Site.INSIDE`; a decision before the block is applied to the state that enters it.
        decide: Called with the state, the projections and the key bias of the block; returns the state with dropped slots marked.
    """

    site: Site
    decide: Decide

    def __post_init__(self) -> None:
        if self.site is Site.BEFORE:
            allowed = ", ".join(site for site in Site if site is not Site.BEFORE)
            raise ValueError(f"site is 'before'; allowed in a block: {allowed}. Apply the decision to the state that enters the block")


@dataclass(frozen=True)
class DeadSlotRule:
    """How one block treats what is not live.

    mode: masked, gathered or packed. remember: dropped values go to the canvas. key_bias: of a state, (B,M) or None. soft: dead
    keys fade by the gate instead of being hidden (DynamicViT's training). free: dead slots are computed and written too. stay: dead
    slots of an uneven batch stay in their place, because the next decision looks at them again. capacity: (block, rows), of the decision
    of a block in a pass whose sizes are set beforehand (see `capped`); None asks the device for its rows.
    """

    mode: str
    remember: bool
    key_bias: Callable[[TokenState], Tensor | None]
    soft: bool = False
    free: bool = False
    stay: bool = False
    capacity: tuple[int, int] | None = None

    def packs(self, adapter: BaseBlock) -> bool:
        """Tell whether a block runs on packed rows; DropPath, which drops whole images, needs them apart."""
        return self.mode == "packed" and not (adapter.block.training and adapter.drops_paths)

    def packing(self, state: TokenState) -> Packing:
        """Return the packing of a state after a decision: one look at the device, none where the rows are set beforehand."""
        P = state.prefix_count
        if self.capacity is None or self.mode != "packed":
            return Packing.of(state.live, P)
        return CappedPacking.within(state.live, P, *self.capacity)


def settle(state: TokenState, policy: DeadSlotRule, found: Packing | None = None) -> TokenState:
    """Return the state after a decision as the mode wants it: dead slots gone, or still there and known to be dead.

    `found` is the packing of its `live` where that is known already.

    Raises:
        IncompatiblePairing: gathered execution of uneven counts.
    """
    if policy.mode == "masked":
        if state.known.slots is not None:
            return state.replace(complete=state.known.slots.shape == state.live.shape, groups=None)
        return state.replace(complete=_sees_all_live(state.live), groups=None)
    if state.known.slots is not None:
        return state.compact(state.known.slots, None, policy.remember)
    found = found if found is not None else policy.packing(state)
    if policy.mode == "gathered" and not found.even:
        low, high = min(found.lengths) - found.prefix, max(found.lengths) - found.prefix
        raise IncompatiblePairing(f"images of a batch keep {low} to {high} tokens; gathered needs equal numbers: use packed")
    if isinstance(found, CappedPacking):
        state = state.note("overflow", found.block, found.overflow)
    if (policy.stay or isinstance(found, CappedPacking)) and policy.mode == "packed":
        return state.replace(packing=found, groups=None)
    places = found.slots() if state.order is None else found.ordered(state.order)
    state = state.compact(*places, policy.remember)
    return state.replace(packing=Packing(state.live, found.prefix, found.lengths))


def _sees_all_live(live: Tensor) -> bool:
    """Tell whether all of a mask is known to be live. Only a CPU is asked: elsewhere the host would wait. A program is for any image."""
    return live.device.type == "cpu" and not traced() and bool(live.all())


def visibility(state: TokenState, policy: DeadSlotRule) -> tuple[Tensor | None, Tensor | None]:
    """Return (key bias, policy weights), each (B,P+M) or None: dead keys get -inf, or fade by the gate under soft visibility."""
    P = state.prefix_count
    bias = policy.key_bias(state)
    if policy.soft and state.gate is not None:
        return None if bias is None else F.pad(bias, (P, 0)), F.pad(state.gate, (P, 0), value=1.0)
    if not state.known.complete:
        hidden = torch.zeros_like(state.tokens[..., 0]).masked_fill(~state.live, float("-inf"))
        bias = hidden if bias is None else bias + hidden
    return with_prefix_bias(state, bias), None


def with_prefix_bias(state: TokenState, bias: Tensor | None) -> Tensor | None:
    """Return the key bias (B,P+M) of prefix and slots, given that of the slots (B,M); -inf hides a dropped prefix token."""
    if state.prefix_live is None:
        return None if bias is None else F.pad(bias, (state.prefix_count, 0))
    hidden = torch.zeros_like(state.prefix[..., 0]).masked_fill(~state.prefix_live, float("-inf"))
    return torch.cat([hidden, torch.zeros_like(state.tokens[..., 0]) if bias is None else bias], 1)


def held_prefix(before: TokenState, after: TokenState, policy: DeadSlotRule) -> TokenState:
    """Return the state after a block, with the value of dropped prefix tokens from before it unless the policy sets them free."""
    if before.prefix_live is None or policy.free:
        return after
    return after.replace(prefix=after.prefix.where(before.prefix_live.unsqueeze(-1), before.prefix))


def blended(before: TokenState, after: TokenState) -> TokenState:
    """Return the state after a block, each token g * new + (1 - g) * old by the gate g of the decision before the block, `before.gate`."""
    if before.gate is None:
        return after
    gate = before.gate.unsqueeze(-1)
    after = after.replace(tokens=gate * after.tokens + (1 - gate) * before.tokens)
    if before.prefix_gate is None:
        return after
    gate = before.prefix_gate.unsqueeze(-1)
    return after.replace(prefix=gate * after.prefix + (1 - gate) * before.prefix)


def write(state: TokenState, x: Tensor, policy: DeadSlotRule) -> TokenState:
    """Return the state with the sequence x (B,P+M,C); dead slots keep their value unless the policy sets them free."""
    after = state.with_sequence(x)
    if state.known.complete or policy.free:
        return after
    return after.replace(tokens=after.tokens.where(state.live.unsqueeze(-1), state.tokens))
