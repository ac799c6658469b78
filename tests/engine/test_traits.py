"""Traits: whichever way they are held, a position reads what was last stored for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.state import TokenState
from tokenprune.engine.traits import Recent, Traits

PREFIX, SIDE = 2, 3


def start():
    return TokenState.start(torch.zeros(2, PREFIX, 1), torch.zeros(2, SIDE * SIDE, 1), (SIDE, SIDE))


def keeping(state, count, seed):
    generator = torch.Generator().manual_seed(seed)
    slots = torch.stack([torch.randperm(state.index.shape[1], generator=generator)[:count] for _ in range(2)])
    return state.compact(slots, None, remember=False)


@given(st.lists(st.tuples(st.sampled_from(("whole", "slots", "some", "shrink", "read")), st.integers(0, 99)), max_size=16))
def test_a_position_reads_what_was_last_stored_for_it(steps):
    state, expected, held = start(), torch.zeros(2, PREFIX + SIDE * SIDE, 1), False
    for step, seed in steps:
        count = state.index.shape[1]
        values = torch.randn(2, PREFIX + count, 1, generator=torch.Generator().manual_seed(seed))
        where = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) < 0.5
        if step == "shrink" and count > 1:
            state = keeping(state, count - 1, seed)
        if step in ("whole", "slots", "some"):
            mask = where if step == "some" else torch.ones_like(where)
            held, whole = True, step != "slots"
            state = state.replace(live=mask).with_trait("memory", values if whole else values[:, PREFIX:], mask)
            state = state.replace(live=None, complete=True)
            for image in range(2):
                if whole:
                    expected[image, :PREFIX] = values[image, :PREFIX]
                for slot in mask[image].nonzero().flatten():
                    expected[image, PREFIX + state.index[image, slot]] = values[image, PREFIX + slot]
        if held:
            assert torch.equal(state.traits["memory"], expected)
            at = state.index + PREFIX
            assert torch.equal(state.trait("memory"), torch.stack([expected[image, at[image]] for image in range(2)]))


def test_values_of_a_sequence_that_has_lost_positions_wait_until_somebody_needs_them_by_position():
    state = keeping(start(), 5, 0)
    values = torch.randn(2, PREFIX + 5, 1)
    stored = state.with_trait("memory", values)
    assert isinstance(stored.traits.held["memory"], Recent)
    assert stored.trait("memory").data_ptr() == values[:, PREFIX:].data_ptr()  # no step was made
    again = stored.with_trait("memory", values + 1)
    assert again.traits.held["memory"].before is stored.traits.held["memory"].before


def test_few_sequences_are_held_however_often_positions_leave():
    state = start()
    for count in range(8, 0, -1):
        state = keeping(state, count, count).with_trait("memory", torch.randn(2, PREFIX + count, 1))
        assert state.traits.held["memory"].layers <= 4


def test_an_ordinary_mapping_by_position_is_read_the_same_way():
    stored = torch.randn(2, PREFIX + SIDE * SIDE, 1)
    state = keeping(start().replace(traits={"memory": stored}), 4, 1)
    expected = torch.stack([stored[image, state.index[image] + PREFIX] for image in range(2)])
    assert torch.equal(state.trait("memory"), expected)
    assert list(Traits.of(state.traits)) == ["memory"] and len(Traits()) == 0
    with pytest.raises(KeyError):
        Traits()["memory"]
