"""A treatment is a point in a small space: memory x candidates x revive x fold. The named ones are files beside this one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.indexing import add, sort_stably, take
from tokenprune.engine.merged import Groups, Merger
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig, TokenPruneError

if TYPE_CHECKING:
    from tokenprune.engine.blocks.family import Family
    from tokenprune.engine.fusion import Fusion

CHOICES = {"memory": ("forget", "remember"), "candidates": ("live", "all"), "revive": ("never", "last"), "fold": ("none", "fuse", "merge")}


@dataclass(frozen=True)
class Treatment:
    """What becomes of dropped tokens.

    Args:
        memory: `forget` leaves a zero in the dense map, `remember` the last value (SViT section 3.1, "preserve").
        candidates: who may be chosen at the next decision: `live` tokens, or `all` (SViT's reactivation).
        revive: `last` brings every token back before the last block (Cropr's Last Layer Fusion).
        fold: what the others get from the dropped: `none`, `fuse` (EViT's one token), `merge` (ToMe's weighted mean).
        proportional: with `merge`, add log(mass) to the attention logits (ToMe Eq. 1).
    """

    memory: str = "forget"
    candidates: str = "live"
    revive: str = "never"
    fold: str = "none"
    proportional: bool = True

    name: ClassVar[str]
    learns: ClassVar[bool] = False  # whether `module` gives one

    def __post_init__(self) -> None:
        wrong = [f"{k} is {getattr(self, k)!r}; allowed: {', '.join(v)}" for k, v in CHOICES.items() if getattr(self, k) not in v]
        if (self.candidates == "all" or self.revive == "last") and self.memory == "forget":
            wrong.append("candidates `all` and revive `last` need memory `remember`: a forgotten token cannot come back")
        if wrong:
            raise InvalidConfig([f"treatment: {problem}" for problem in wrong])

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Return the point that the treatment's defaults stand for, and whether there is something to learn."""
        point = cls()
        return {**{key: getattr(point, key) for key in CHOICES}, "learns": cls.learns}

    @property
    def remembers(self) -> bool:
        """Tell whether dropped tokens leave a value behind."""
        return self.memory == "remember"

    @property
    def fills_canvas(self) -> bool:
        """Tell whether dropped values are kept aside: not where another token speaks for them."""
        return self.remembers and self.fold != "merge"

    @property
    def may_revive(self) -> bool:
        """Tell whether dropped tokens may be chosen again."""
        return self.candidates == "all"

    @property
    def extra(self) -> int:
        """Return how many slots each decision adds."""
        return int(self.fold == "fuse")

    def module(self, family: "Family", positions: int) -> "Fusion | None":
        """Return a learned way back to all `positions` N for models of a family, with weights of its own; None for none."""
        return None

    def at(self, block: int, depth: int) -> "Treatment":
        """Return the treatment in force at a block of a model of `depth` blocks; it may differ in `fold` and `memory` only."""
        return self

    @property
    def lets_pass(self) -> bool:
        """Tell whether `before_block` is this class's own, which changes nothing but for `revive`."""
        return type(self).before_block is Treatment.before_block

    def before_block(self, state: TokenState, block: int, depth: int) -> TokenState:
        """Return the state that enters a block: Last Layer Fusion brings all positions back before the last one."""
        return state.expand() if self.revive == "last" and block == depth - 1 else state

    def candidates_of(self, state: TokenState) -> TokenState:
        """Return the state that a decision looks at: all positions again under reactivation."""
        return state.expand() if self.may_revive else state

    def apply(self, state: TokenState, decision: Decision) -> TokenState:
        """Return the state with dropped slots dead and folded; slots are only marked, execution removes them."""
        if decision.mix is not None:
            return mixed(state, decision.mix, decision.values)
        if self.fold == "merge" and not decision.named and decision.slots is None and state.index.shape[1]:
            decision = decision.replace(keep=with_heir(state, decision))
        complete = state.known.complete
        dropped = None if complete or self.fold == "none" else state.live & ~decision.keep
        fused = fused_token(state, decision, dropped) if self.fold == "fuse" else None
        for name, values in decision.traits.items():
            state = state.with_trait(name, values)
        slots, gone = (decision.slots, decision.gone) if complete else (None, None)
        live = None if slots is not None and not decision.masked else decision.keep
        order = reordered(state, decision)
        vanished = state.vanished or (self.fold == "none" and not self.remembers)
        gates = {"gate": decision.gate, "branch": decision.branch, "prefix_gate": decision.prefix_gate}
        state = state.replace(live=live, slots=slots, gone=gone, order=order, vanished=vanished, **gates)
        state = state if decision.prefix_keep is None else state.replace(prefix_live=decision.prefix_keep)
        if fused is not None:
            return fuse(state, *fused)
        if self.fold != "merge" or not state.index.shape[1]:
            return state
        if not decision.named:
            decision = decision.replace(target=nearest(state, decision.keep), weight=None)  # that of dropped tokens in a fused one
        elif decision.values is not None:
            state = state.replace(tokens=decision.values)
        return self.merged(state, dropped, decision)

    def merged(self, state: TokenState, dropped: Tensor | None, decision: Decision) -> TokenState:
        """Return the state with dropped slots (B,M), None for all that are not kept, merged into the targets of a decision."""
        return merge(state, dropped, decision)

    def macs(self, names_targets: bool, squared_slots: float, dim: int) -> float:
        """Return the MACs of one decision: the M x M similarities in C channels of `nearest`, where nobody names the targets of merging.

        Args:
            names_targets: Whether the selector names them.
            squared_slots: M^2, as a mean over images.
            dim: C.
        """
        return squared_slots * dim if self.fold == "merge" and not names_targets else 0.0

    def key_bias(self, state: TokenState) -> Tensor | None:
        """Return (B,M) to add to each key's logits, or None."""
        return state.mass.log() if state.mass is not None and self.proportional else None


def fused_token(state: TokenState, decision: Decision, dropped: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the sum of dropped tokens times their weight (B,1,C), not normalised (EViT Eq. 4), and which images have dropped some (B,1).

    `dropped` (B,M) is None for all slots that are not kept, and which images is None for all of them.
    """
    if dropped is None and decision.gate is None and decision.gone is not None and decision.gone.shape[1]:  # no mask is needed
        tokens, weight = state.rows_of(decision.gone), fused_weight(decision).gather(1, decision.gone)
        return weight.to(tokens.dtype).unsqueeze(1) @ tokens, None
    dropped = ~decision.keep if dropped is None else dropped
    weight = amounts(state, decision, dropped).to(state.tokens.dtype)
    return weight.unsqueeze(1) @ state.tokens, dropped.any(1, keepdim=True)


def fused_weight(decision: Decision) -> Tensor:
    """Return the weight (B,M) of each slot in a fused token.

    Raises:
        TokenPruneError: a decision with neither weight nor score.
    """
    weight = decision.score if decision.weight is None else decision.weight
    if weight is None:
        raise TokenPruneError("a fused token weighs what it is made of, and the decision gives neither weight nor score: set one of them")
    return weight


def amounts(state: TokenState, decision: Decision, dropped: Tensor) -> Tensor:
    """Return how much of each slot a fused token gets, (B,M): the decision's weight where `dropped` (B,M), else 0.

    Where a gate decides, each candidate's gate learns from the difference that going there makes (SPViT).
    """
    weight = fused_weight(decision)
    if decision.gate is None:
        return weight.masked_fill(~dropped, 0.0)
    before = state.live.to(decision.gate.dtype) if state.gate is None else state.gate
    going = before - decision.gate
    return weight * (going + (dropped.to(going.dtype) - going).detach())


def fuse(state: TokenState, fused: Tensor, some: Tensor | None) -> TokenState:
    """Append a token (B,1,C) to an image, last in order, which is live where `some` (B,1), None for everywhere."""
    (B, M), slots = state.index.shape, state.known.slots
    if slots is not None and slots.shape[1] < M:  # something was dropped, so the new slot is live
        slots = F.pad(slots, (0, 1), value=M)
    some = state.index.new_ones(B, 1, dtype=torch.bool) if some is None else some
    live = None if slots is not None else torch.cat([state.live, some], 1)
    return state.replace(
        **state.as_holder(torch.cat([state.holder()[0], fused], 1)),
        order=None if state.order is None else live_first(F.pad(state.order, (0, 1), value=M), torch.cat([state.live, some], 1)),
        index=torch.cat([state.index, torch.full_like(state.index[:, :1], -1)], 1),
        live=live,
        gate=None if state.gate is None else torch.cat([state.gate, some.to(state.gate.dtype)], 1),
        slots=slots,
    )


def mixed(state: TokenState, mix: Tensor, values: Tensor | None) -> TokenState:
    """Put K new tokens, mixtures (B,K,M) of `values` (B,M,C) or else of the tokens, behind the slots (B,M), which are all dead then."""
    values = state.tokens if values is None else values
    fresh = mix.to(values.dtype) @ values
    (B, M), K = state.index.shape, fresh.shape[1]
    live = torch.cat([torch.zeros_like(state.live), state.live.new_ones(B, K)], 1)
    return state.replace(
        tokens=torch.cat([state.tokens, fresh.to(state.tokens.dtype)], 1),
        index=torch.cat([state.index, state.index.new_full((B, K), -1)], 1),
        live=live,
        slots=torch.arange(M, M + K, device=live.device).expand(B, K),
        mass=None,
        gate=None,
        order=None,
    )


def reordered(state: TokenState, decision: Decision) -> Tensor | None:
    """Return the order of slots after a decision: its own, or that of before without the dropped ones."""
    if decision.order is not None or state.order is None:
        return decision.order
    return live_first(state.order, decision.keep)


def live_first(order: Tensor, live: Tensor) -> Tensor:
    """Return an order (B,K) of slots with those of a mask (B,M) first."""
    return order.gather(1, sort_stably((~live.gather(1, order)).to(torch.uint8))[1])


def pairs_of(state: TokenState, dropped: Tensor | None, decision: Decision) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return slots (B,R) with every merged one among them, the kept slot (B,R) that each ends in, and which are merged, None for all."""
    if decision.into is not None and decision.gone is not None and decision.chain == 1:
        return decision.gone[:, : decision.into.shape[1]], decision.into, None
    gone, target, length = leaving(state, dropped, decision), decision.targets, 1
    if decision.chain > 1:
        target = target.where(_dropped(dropped, decision), torch.arange(target.shape[1], device=target.device))
    while length < decision.chain:
        target, length = target.gather(1, target), 2 * length
    moves = None
    if decision.vanish is not None:
        moves = (_dropped(dropped, decision) & ~decision.vanish).gather(1, gone)
    elif state.known.slots is None:
        moves = _dropped(dropped, decision).gather(1, gone)
    return gone, target.gather(1, gone), moves


def merge(state: TokenState, dropped: Tensor | None, decision: Decision) -> TokenState:
    """Move dropped slots (B,M), None for all that are not kept, into the targets of a decision, but for those that vanish.

    The new value is the mean by mass (ToMe section 3), or by the decision's `weight`; masses, times `carry`, and owners follow.
    """
    weight, carry = decision.weight, decision.carry
    mass = torch.ones_like(state.tokens[..., 0]) if state.mass is None else state.mass
    gone, into, moves = pairs_of(state, dropped, decision)

    def flows(amount: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moving = amount.gather(1, gone)
        moving = moving if moves is None else moving * moves
        moving = moving if factor is None else moving * (factor if decision.into is not None else factor.gather(1, gone)).to(moving.dtype)
        return moving, amount.scatter_add(1, into, moving)

    moving, total = flows(mass if weight is None else weight.to(mass.dtype))
    lost = decision.vanish is not None or decision.vanishing > 0
    groups = Groups(gone, into, moving, total, not lost)
    share = (moving / total.gather(1, into)).unsqueeze(-1)
    x, first = state.holder()
    source, place = gone + first, into + first
    x = add(x, place, (take(x, source) - take(x, place)) * share)  # the mean as a step from the target: 0 for who stays
    mass = total if weight is None and carry is None else flows(mass, carry)[1]
    vanish = None if decision.vanish is None else decision.vanish.gather(1, gone)
    merger = Merger(state.index, gone, into, moves, vanish, state.known.all_placed)
    mergers, vanished = (*state.mergers, merger), state.vanished or lost
    return state.replace(**state.as_holder(x), mass=mass, mergers=mergers, groups=groups, vanished=vanished)


def _dropped(dropped: Tensor | None, decision: Decision) -> Tensor:
    """Return the mask (B,M) of dropped slots: all that are not kept, where `dropped` is None."""
    return ~decision.keep if dropped is None else dropped


def leaving(state: TokenState, dropped: Tensor | None, decision: Decision) -> Tensor:
    """Return slots (B,R) with every dropped one among them: just those where their number is known, else all."""
    B, M = state.index.shape
    if state.known.gone is not None:
        return state.known.gone
    if state.known.slots is None:
        return torch.arange(M, device=state.index.device).expand(B, M)
    return sort_stably(_dropped(dropped, decision).to(torch.uint8), descending=True)[1][:, : M - state.known.slots.shape[1]]


def with_heir(state: TokenState, decision: Decision) -> Tensor:
    """Return what a decision keeps, (B,M), and where that is nothing the live slot of best score, into which the others are merged."""
    score = state.live.float() if decision.score is None else decision.score.detach()
    best = score.masked_fill(~state.live, float("-inf")).argmax(1, keepdim=True)
    nobody = ~decision.keep.any(1, keepdim=True) & state.live
    return decision.keep | (nobody & torch.zeros_like(state.live).scatter_(1, best, 1))


def nearest(state: TokenState, keep: Tensor) -> Tensor:
    """Return for each slot the kept slot of most similar token (cosine), (B,M): targets where a selector names none."""
    unit = torch.nn.functional.normalize(state.tokens.detach(), dim=-1)
    similarity = (unit @ unit.transpose(1, 2)).masked_fill(~keep.unsqueeze(1), float("-inf"))
    return similarity.argmax(-1)
