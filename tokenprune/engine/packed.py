"""A block on packed rows (see `packing`): nothing dead is computed, whatever the counts."""

from torch import Tensor

from tokenprune.engine.blocks.base import BaseBlock, Projection
from tokenprune.engine.packing import Packing, Spread
from tokenprune.engine.policy import DeadSlotRule, Decide, Decider, Site, settle, visibility, with_prefix_bias, write
from tokenprune.engine.state import TokenState


def run_packed(adapter: BaseBlock, state: TokenState, policy: DeadSlotRule, decider: Decider | None, see: Decide | None) -> TokenState:
    """Run one block over live rows only; the arguments are those of `execution.run_block`.

    Weights act on all rows at once, attention image by image. Whoever looks at the projections gets them padded.
    """
    kept, sequence = state.packed(), own_sequence(state)
    x = kept.take(sequence)
    p = adapter.project(x, adapter.codes(state, kept.rows))
    bias = _key_bias(state, policy, kept)
    looks = see is not None or decider is not None
    seen, hidden = Spread(p, kept), visibility(state, policy)[0] if looks else None
    if see is not None:
        state = see(state, seen, hidden)
    if decider is not None and decider.site is Site.ROWS:
        state, x = _ask(adapter, state, policy, kept, p, bias, decider.decide(state, seen, hidden))
        return store(state, x + adapter.feed(x))
    x = x + adapter.attend_ragged(p, kept, kept, bias)
    if decider is None:
        return state.with_sequence(kept.put(sequence, x + adapter.feed(x)))
    return feed(adapter, settle(decider.decide(state.with_sequence(kept.put(sequence, x)), seen, hidden), policy), policy)


def feed(adapter: BaseBlock, state: TokenState, policy: DeadSlotRule) -> TokenState:
    """Return the state after the MLP, on live rows only where the policy packs."""
    if state.known.complete or not policy.packs(adapter):
        x = state.sequence()
        return write(state, x + adapter.feed(x), policy)
    x = state.packed().take(state.sequence())
    return store(state, x + adapter.feed(x))


def store(state: TokenState, x: Tensor) -> TokenState:
    """Return the state with its live rows taken from x (1,T,C)."""
    if state.known.complete:
        return state.with_sequence(x.view(state.live.shape[0], -1, x.shape[-1]))
    return state.with_sequence(state.packed().put(own_sequence(state), x))


def own_sequence(state: TokenState) -> Tensor:
    """Return the sequence (B,P+M,C) as a tensor of its own, which may be written to: older states keep theirs."""
    x = state.sequence()
    return x.clone() if x is state.joined or x is state.tokens else x


def _ask(
    adapter: BaseBlock, state: TokenState, policy: DeadSlotRule, kept: Packing, p: Projection, bias: Tensor | None, after: TokenState
) -> tuple[TokenState, Tensor]:
    """Return the settled state after a decision on queries, and its rows (1,Q,C) with the attention of the kept queries added.

    A token fused just now has no query and gets nothing yet.
    """
    asks = policy.packing(after)
    before, now = kept.alive.shape[1], asks.alive.shape[1]
    place = asks.rows % now
    queries = kept.rank(asks.rows // now * before + place.clamp(max=before - 1))
    delta = adapter.attend_ragged(p, asks, kept, bias, queries)
    if now > before:
        delta = delta.masked_fill((place >= before)[None, :, None], 0.0)
    return settle(after, policy, asks), asks.take(after.sequence()) + delta


def _key_bias(state: TokenState, policy: DeadSlotRule, kept: Packing) -> Tensor | None:
    bias = with_prefix_bias(state, policy.key_bias(state))
    return None if bias is None else kept.take(bias)
