"""Packed rows: taken, put back, padded and found again; and a state that knows its packing asks nobody."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.packing import Packing
from tokenprune.engine.state import TokenState


def mask(batch, slots, seed):
    live = torch.rand(batch, slots, generator=torch.Generator().manual_seed(seed)) < 0.6
    live[:, 0] = True
    return live


sizes = given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2), st.integers(0, 50))


@sizes
def test_rows_are_the_live_ones_image_after_image(batch, slots, prefix, seed):
    live = mask(batch, slots, seed)
    kept = Packing.of(live, prefix)
    x = torch.randn(batch, prefix + slots, 3)
    rows = [x[b, i] for b in range(batch) for i in range(prefix + slots) if i < prefix or live[b, i - prefix]]
    assert torch.equal(kept.take(x)[0], torch.stack(rows))
    assert kept.lengths == tuple((live.sum(1) + prefix).tolist())
    assert kept.starts.tolist() == [sum(kept.lengths[:b]) for b in range(batch + 1)]


@sizes
def test_what_is_put_back_changes_live_rows_only(batch, slots, prefix, seed):
    kept, x = Packing.of(mask(batch, slots, seed), prefix), torch.randn(batch, prefix + slots, 3)
    written = kept.put(x.clone(), kept.take(x) + 1)
    assert torch.equal(written, x + kept.alive.unsqueeze(-1))
    assert torch.equal(kept.spread(kept.take(x)), x * kept.alive.unsqueeze(-1))
    heads = kept.take(x).unsqueeze(1)  # (1,h,T,d)
    assert torch.equal(kept.spread(heads, 2), (x * kept.alive.unsqueeze(-1)).unsqueeze(1))


@sizes
def test_windows_pad_to_the_longest_and_lead_back(batch, slots, prefix, seed):
    kept = Packing.of(mask(batch, slots, seed), prefix)
    places, real = kept.window
    assert places.shape == (batch, max(kept.lengths)) and real.sum(1).tolist() == list(kept.lengths)
    assert torch.equal(places.flatten()[kept.back], torch.arange(sum(kept.lengths)))
    assert torch.equal(kept.rank(kept.rows), torch.arange(len(kept.rows)))


@sizes
def test_slots_are_ascending_and_padding_is_last(batch, slots, prefix, seed):
    live = mask(batch, slots, seed)
    found, real = Packing.of(live, prefix).slots()
    for b in range(batch):
        own = found[b] if real is None else found[b][real[b]]
        assert own.tolist() == live[b].nonzero().squeeze(1).tolist()


def test_a_known_packing_is_used_as_long_as_it_stands_for_the_mask(monkeypatch):
    state = TokenState.start(torch.zeros(2, 1, 3), torch.zeros(2, 4, 3), (2, 2))
    assert state.packed().lengths == (5, 5)
    live = mask(2, 4, 3)
    state = state.replace(live=live, complete=False, packing=Packing.of(live, 1))
    assert state.packed() is state.known.packing and torch.equal(state.counts(), live.sum(1))
    other = ~live
    assert state.replace(live=other).packed().lengths == tuple((other.sum(1) + 1).tolist())
