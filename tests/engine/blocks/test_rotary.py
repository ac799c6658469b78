"""Rotary rows: each slot turns by its own grid position, whatever has none stays as it is."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.engine.blocks.rotary import rotary_rows, rotated
from tokenprune.engine.state import TokenState

CHANNELS = 8  # of a head


def table(positions, depth=0, heads=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (depth, heads, positions, CHANNELS // 2) if depth else (positions, CHANNELS // 2)
    angle = torch.rand(shape, generator=generator) * 6
    return torch.cat([angle.sin().repeat_interleave(2, -1), angle.cos().repeat_interleave(2, -1)], -1)


def state_of(batch, side, prefix, rope, seed):
    generator = torch.Generator().manual_seed(seed)
    state = TokenState.start(torch.zeros(batch, prefix, 4), torch.zeros(batch, side * side, 4), (side, side)).replace(rope=rope)
    slots = torch.stack([torch.randperm(side * side, generator=generator)[: side + 1] for _ in range(batch)])
    real = torch.rand(slots.shape, generator=generator) < 0.7
    return state, state.compact(slots, real, remember=False)


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2), st.booleans(), st.integers(0, 50))
def test_each_slot_gets_the_row_of_its_position(batch, side, prefix, mixed, seed):
    rope = table(side * side, depth=3, heads=2, seed=seed) if mixed else table(side * side, seed=seed)
    whole, some = state_of(batch, side, prefix, rope, seed)
    for number in range(3 if mixed else 1):
        of_block = rope[number] if mixed else rope.unsqueeze(0)
        unturned = torch.cat([torch.zeros(CHANNELS), torch.ones(CHANNELS)])
        everything, rows = rotary_rows(whole, number), rotary_rows(some, number)
        assert torch.equal(everything[0, :, prefix:], of_block) and (everything[0, :, :prefix] == unturned).all()
        assert rows.shape == (batch, len(of_block), prefix + some.live.shape[1], 2 * CHANNELS) and (rows[:, :, :prefix] == unturned).all()
        for image, index in zip(rows[:, :, prefix:], some.index.tolist(), strict=True):
            for slot, position in enumerate(index):
                assert torch.equal(image[:, slot], of_block[:, position]) if position >= 0 else (image[:, slot] == unturned).all()


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2), st.booleans(), st.integers(0, 50))
def test_packed_rows_are_those_of_the_live_slots(batch, side, prefix, mixed, seed):
    rope = table(side * side, depth=3, heads=2, seed=seed) if mixed else table(side * side, seed=seed)
    for state in state_of(batch, side, prefix, rope, seed):
        alive = torch.cat([torch.ones(batch, prefix, dtype=torch.bool), state.live], 1)
        picked = alive.flatten().nonzero().squeeze(1)
        packed = rotary_rows(state, 2, picked)
        everything = rotary_rows(state, 2).expand(batch, -1, -1, -1).transpose(1, 2)
        assert torch.equal(packed[0].transpose(0, 1), everything[alive])


def test_no_codes_no_rows():
    whole, some = state_of(2, 3, 1, None, 0)
    assert rotary_rows(whole, 0) is None and rotary_rows(some, 5) is None


def test_codes_stay_when_everything_comes_back():
    rope = table(9)
    _, some = state_of(2, 3, 1, rope, 0)
    assert some.expand().rope is rope


def test_turning_is_a_complex_product():
    """Neighbouring channels are a complex number, turned by the angle of its position; the identity row changes nothing."""
    x = torch.randn(2, 3, 5, CHANNELS, generator=torch.Generator().manual_seed(1))
    rows = table(5)
    angle = torch.atan2(rows[:, :CHANNELS:2], rows[:, CHANNELS::2])
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones(()), angle)
    torch.testing.assert_close(rotated(x, rows, half=False), torch.view_as_real(turned).flatten(-2))
    halves = torch.cat([rows[:, :CHANNELS:2], rows[:, :CHANNELS:2], rows[:, CHANNELS::2], rows[:, CHANNELS::2]], -1)
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones(()), angle)
    torch.testing.assert_close(rotated(x, halves, half=True), torch.cat([turned.real, turned.imag], -1))
    still = torch.cat([torch.zeros(CHANNELS), torch.ones(CHANNELS)])
    assert torch.equal(rotated(x, still, half=False), x) and torch.equal(rotated(x, still, half=True), x)
