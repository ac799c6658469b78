"""Positions and slots: what leaves the sequence comes back to its own cell."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.indexing import put, take
from tokenprune.engine.packing import Packing
from tokenprune.engine.state import TokenState


def state_of(batch, height, width, channels=3, prefix=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, height * width, channels, generator=generator)
    return TokenState.start(torch.randn(batch, prefix, channels, generator=generator), tokens, (height, width))


def dropped(state, seed):
    generator = torch.Generator().manual_seed(seed)
    live = torch.rand(state.live.shape, generator=generator) < 0.5
    live[:, 0] = True
    return state.replace(live=live, complete=bool(live.all()))


@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(0, 50))
def test_compacting_loses_nothing_that_is_remembered(batch, height, width, seed):
    state = dropped(state_of(batch, height, width), seed)
    small = state.compact(*state.packed().slots(), remember=True)
    assert torch.equal(small.dense(), state.tokens)
    assert torch.equal(small.present(), state.live)
    assert torch.equal(small.counts(), state.live.sum(1))
    assert torch.equal(small.expand().tokens, state.tokens) and small.expand().known.complete


@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(0, 50))
def test_what_is_forgotten_is_absent(batch, height, width, seed):
    state = dropped(state_of(batch, height, width), seed)
    small = state.compact(*state.packed().slots(), remember=False)
    assert small.canvas is None
    assert torch.equal(small.dense()[small.present()], state.tokens[state.live])
    assert (small.dense()[~small.present()] == 0).all()


@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 50))
def test_slots_keep_raster_order_and_positions_are_unique(batch, side, seed):
    small = (state := dropped(state_of(batch, side, side), seed)).compact(*state.packed().slots(), remember=True)
    for b in range(batch):
        places = small.index[b][small.live[b]].tolist()
        assert places == sorted(set(places))
        assert (small.index[b][~small.live[b]] == -1).all()


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 20))
def test_take_and_put_are_numpys(batch, rows, picks, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, rows, 2, generator=generator)
    slots = torch.stack([torch.randperm(rows, generator=generator)[: min(picks, rows)] for _ in range(batch)])
    for b in range(batch):
        assert torch.equal(take(x, slots)[b], x[b][slots[b]])
    assert torch.equal(put(x, slots, take(x, slots)), x)
    assert torch.equal(put(x, torch.full_like(slots, -1), take(x, slots) + 1), x)


def test_traits_are_stored_by_position():
    state = dropped(state_of(2, 3, 3), 1)
    small = state.compact(*state.packed().slots(), remember=True)
    values = torch.arange(small.index.numel(), dtype=torch.float32).view_as(small.index)
    kept = small.with_trait("memory", values, small.live)
    assert torch.equal(kept.trait("memory")[small.live], values[small.live])
    stored = kept.traits["memory"]
    assert stored.shape == (2, 10) and (stored[:, 0] == 0).all()
    assert (stored[:, 1:][~state.live] == 0).all()
    assert (kept.trait("memory", missing=7.0)[small.index < 0] == 7).all()


def test_traits_of_prefix_tokens_are_stored_with_those_of_the_slots_or_left_alone():
    whole = state_of(2, 3, 3, prefix=2)
    small = dropped(whole, 1).compact(*dropped(whole, 1).packed().slots(), remember=True)
    for state in (whole, small):
        values = torch.arange(2.0 * (2 + state.index.shape[1])).view(2, -1) + 1
        stored = state.with_trait("memory", values)
        assert torch.equal(stored.traits["memory"][:, :2], values[:, :2]) and stored.traits["memory"].shape == (2, 11)
        assert torch.equal(stored.trait("memory")[state.live], values[:, 2:][state.live])
        later = stored.with_trait("memory", values[:, 2:] * 10)
        assert torch.equal(later.traits["memory"][:, :2], values[:, :2])
        assert torch.equal(later.trait("memory")[state.live], 10 * values[:, 2:][state.live])


def test_a_record_is_appended_and_the_state_stays():
    state = state_of(1, 2, 2)
    noted = state.note("usage", 3, 0.5)
    assert noted.aux == (("usage", 3, 0.5),) and state.aux == ()


def uneven(known):
    """Two images of 2x2 positions that keep 3 and 2 slots, after a decision that says `known` of them."""
    live = torch.tensor([[True, True, False, True], [True, False, False, True]])
    return state_of(2, 2, 2).replace(live=live, **known)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("complete", True),
        ("slots", torch.tensor([[0, 1], [0, 3]])),
        ("slots", torch.tensor([[0, 1, 3], [0, 3, 3]])),
        ("packing", Packing.of(torch.ones(2, 4, dtype=torch.bool), 1)),
        ("packing", Packing.of(torch.tensor([[True, True, False, True], [True, False, False, True]]), 0)),
    ],
    ids=["complete", "too few slots", "a slot twice", "packing of another mask", "packing of another prefix"],
)
def test_a_wrong_fact_is_found(fact, value):
    uneven({}).check()
    with pytest.raises(RuntimeError, match=f"wrong about {fact} of 2 images with 4 slots on a grid of"):
        uneven({fact: value}).check()


def test_a_sequence_that_is_not_prefix_and_tokens_is_found():
    state = dataclasses.replace(state_of(2, 2, 2), joined=torch.zeros(2, 5, 3))
    with pytest.raises(RuntimeError, match="wrong about joined of 2 images"):
        state.check()


def test_a_new_sequence_stands_for_prefix_and_tokens():
    state, x = state_of(2, 2, 2), torch.rand(2, 5, 3)
    after = state.replace(joined=x, complete=True, gate=None)
    after.check()
    assert torch.equal(after.prefix, x[:, :1]) and torch.equal(after.tokens, x[:, 1:])


@pytest.mark.parametrize(("fact", "index"), [("in_grid_order", [[1, 0, 2, 3]]), ("all_placed", [[0, 1, 2, -1]])])
def test_a_wrong_fact_about_positions_is_found(fact, index):
    state = state_of(1, 2, 2).replace(index=torch.tensor(index))
    state.check()
    with pytest.raises(RuntimeError, match=f"wrong about {fact} of"):
        state.replace(**{fact: True}).check()


def test_facts_about_a_tensor_that_changes_are_forgotten_unless_they_are_given():
    state = state_of(2, 2, 2)
    state = state.with_sequence(state.sequence())
    slots = torch.arange(4).expand(2, 4)
    assert state.known.complete and state.known.in_grid_order and state.known.all_placed
    fewer = state.replace(slots=slots).replace(live=state.live.clone())
    assert not fewer.known.complete and fewer.known.slots is None and fewer.known.packing is None
    assert fewer.known.in_grid_order and fewer.known.all_placed and fewer.joined is state.joined
    moved = state.replace(index=state.index.flip(1), all_placed=True)
    assert moved.known.complete and not moved.known.in_grid_order and moved.known.all_placed
    assert state.replace(tokens=state.tokens + 1).joined is None
    assert state.replace(gate=None).known is state.known


def test_a_copy_with_a_field_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="no field tokns"):
        state_of(1, 2, 2).replace(tokns=None)
