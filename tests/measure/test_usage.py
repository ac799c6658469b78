"""Recorded usage against the engine's own counts, and the statistics against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.pairings import DEPTH, SIDE, images, label, pairings, pruned, representatives
from tokenprune.backbones.maps import DenseMap
from tokenprune.errors import TokenPruneError
from tokenprune.measure.macs import encoder_macs
from tokenprune.measure.usage import by_foreground, layers_per_token, mean_map, reactivation, record
from tokenprune.registry import get

PAIRINGS = representatives()
REVIVED = [(s, t) for s, t in pairings() if t == "reactivate" and s["name"] in ("svit", "random") and (s, t) not in PAIRINGS]


def recorded(model, x):
    with torch.no_grad(), record(model) as seen:
        outputs = model.encode(x)
    return torch.stack([image.blocks for image in seen.images]), outputs


@pytest.mark.parametrize(("selector", "treatment"), PAIRINGS, ids=label)
def test_counts_are_the_engines_own_under_every_execution(selector, treatment):
    """Only a fused or mixed token is attended to without having a position."""
    found, mixing = [], get("selector", selector["name"]).mixing
    for execution in ("auto", "masked"):
        model = pruned(selector, treatment, execution=execution)
        used, outputs = recorded(model, images(3))
        assert used.shape == (3, DEPTH, 64) and used.dtype == torch.bool
        extra = torch.stack([u.attended for u in outputs.usage], 1) - model.prefix_tokens - used.sum(-1)
        assert bool((extra >= 0).all()) and int(extra.max()) <= (64 if mixing else DEPTH if treatment == "fuse" else 0)
        if treatment != "fuse" and not mixing:
            assert used.float().mean((0, 2)).tolist() == pytest.approx(list(encoder_macs(model, outputs).kept_per_block))
        found.append(used)
    assert selector["name"] == "random" or torch.equal(*found)


@pytest.mark.parametrize(("selector", "treatment"), PAIRINGS, ids=label)
def test_owners_are_used_themselves_and_tokens_are_the_engines_count(selector, treatment):
    """Who speaks for a position is in the block itself; a position that is used speaks for itself."""
    model, x = pruned(selector, treatment), images(3)
    with torch.no_grad(), record(model, owners=True) as seen:
        outputs = model.encode(x)
    attended = torch.stack([used.attended for used in outputs.usage], 1) - model.prefix_tokens
    for number, one in enumerate(seen.images):
        assert one.owners.shape == one.blocks.shape == (DEPTH, 64) and one.owners.dtype == torch.int32
        assert torch.equal(one.tokens, attended[number].long())
        assert torch.equal(one.blocks, one.owners == torch.arange(64))
        for block in range(DEPTH):
            owners = one.owners[block]
            assert bool(one.blocks[block][owners[owners >= 0].long()].all())
        if treatment not in ("merge", "mlerp"):
            assert torch.equal(one.owners >= 0, one.blocks)
    merged = torch.stack([(one.owners >= 0) & ~one.blocks for one in seen.images])
    assert bool(merged.any()) == (treatment in ("merge", "mlerp"))


@pytest.mark.parametrize(("selector", "treatment"), [("svit", "reactivate"), ("ats", "remove"), ("tome", "merge")])
def test_batch_mates_do_not_change_usage(selector, treatment):
    model, x = pruned(selector, treatment), images(3)
    assert torch.equal(torch.cat([recorded(model, x[i : i + 1])[0] for i in range(3)]), recorded(model, x)[0])


@pytest.mark.parametrize(("selector", "treatment"), [*PAIRINGS, *REVIVED], ids=label)
def test_only_treatments_that_revive_reactivate(selector, treatment):
    back = reactivation(recorded(pruned(selector, treatment), images(3))[0])
    if treatment in ("remove", "preserve", "fuse", "merge"):
        assert not back.again.any() and back.pruned.any()
    if treatment == "last_layer_fusion":
        assert torch.equal(back.again[:, :-1], back.pruned[:, :-1]) and torch.equal(back.following[:, -2], back.pruned[:, -2])
    if treatment == "reactivate" and selector["name"] in ("svit", "random"):
        assert back.again.any()


def test_a_dense_model_uses_everything():
    used, _ = recorded(pruned(None, None, None), images(2))
    assert used.all() and not reactivation(used).pruned.any() and reactivation(used).share.isnan().all()


def test_images_of_several_sizes_and_modules_around_the_encoder():
    model = DenseMap(pruned("svit", "reactivate"))
    with torch.no_grad(), record(model) as seen:
        model(images(2))
        model(torch.randn(1, 3, SIDE, 2 * SIDE))
    assert [tuple(image.grid) for image in seen.images] == [(8, 8), (8, 8), (8, 16)]
    assert [tuple(image.blocks.shape) for image in seen.images] == [(DEPTH, 64), (DEPTH, 64), (DEPTH, 128)]
    assert model.pruned.watch is None


def test_training_passes_are_recorded_too():
    model = pruned("svit", "reactivate", losses={"ratio": {}}).train()
    with record(model) as seen:
        outputs = model.encode(images(2))
    counts = torch.stack([image.blocks.sum(-1) for image in seen.images])
    assert torch.equal(counts[:, 2], (outputs.usage[2].attended - 1).cpu()) and outputs.map.requires_grad


def test_a_watcher_that_was_there_goes_on_watching():
    model, blocks = pruned("topk", "preserve"), []
    model.watch = lambda block, state: blocks.append(block)
    recorded(model, images(1))
    assert blocks == list(range(DEPTH)) and model.watch is not None


def test_incomplete_passes_are_refused():
    model, x = pruned("topk", "preserve"), images(1)
    with torch.no_grad():
        with pytest.raises(TokenPruneError, match="ended after block 2.*0 to 5"), record(model):
            model.run(model.start(x), 0, 3)
        with pytest.raises(TokenPruneError, match="block 2 ran without"), record(model):
            model.run(model.start(x), 2, DEPTH)
        assert model.watch is None
        with record(model) as seen:  # in parts, as an adapter runs it
            state, _ = model.run(model.start(x), 0, 3)
            model.run(state, 3, DEPTH)
    assert len(seen.images) == 1


def test_a_module_without_an_encoder_is_named():
    with pytest.raises(TokenPruneError, match="Linear has no PrunedViT inside; make one"), record(nn.Linear(1, 1)):
        pass


@st.composite
def usages(draw):
    count, L, N = (draw(st.integers(1, n)) for n in (3, 6, 7))
    bits = draw(st.lists(st.booleans(), min_size=count * L * N, max_size=count * L * N))
    return torch.tensor(bits).view(count, L, N)


@given(usages())
@settings(deadline=None)
def test_reactivation_is_what_a_loop_counts(usage):
    back = reactivation(usage)
    count, L, N = usage.shape
    for i in range(count):
        for block in range(L):
            gone = [n for n in range(N) if not usage[i, block, n]]
            again = [n for n in gone if any(usage[i, later, n] for later in range(block + 1, L))]
            following = [n for n in gone if block + 1 < L and usage[i, block + 1, n]]
            assert [int(t[i, block]) for t in (back.pruned, back.again, back.following)] == [len(gone), len(again), len(following)]
            same(back.share[i, block], again, gone)
            same(back.share_following[i, block], following, again)
    assert not back.again[:, -1].any()


@given(usages(), st.data())
@settings(deadline=None)
def test_foreground_shares_are_what_a_loop_counts(usage, data):
    count, L, N = usage.shape
    fg = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count * N, max_size=count * N))).view(count, N)
    inside, outside = by_foreground(usage, fg)
    for i in range(count):
        for block in range(L):
            for shares, wanted in ((inside, True), (outside, False)):
                where = [n for n in range(N) if bool(fg[i, n]) == wanted]
                same(shares[i, block], [n for n in where if usage[i, block, n]], where)


@given(usages())
@settings(deadline=None)
def test_layers_per_token_and_their_mean(usage):
    counts = layers_per_token(usage)
    count, L, N = usage.shape
    assert counts.tolist() == [[sum(bool(usage[i, block, n]) for block in range(L)) for n in range(N)] for i in range(count)]
    assert torch.allclose(mean_map(usage, (1, N)).flatten(), counts.float().mean(0))
    assert torch.allclose(mean_map(usage, (N, 1), (N, 1)).flatten(), counts.float().mean(0))  # its own size changes nothing


def test_resized_maps_stay_in_range_and_keep_the_layout():
    usage = torch.zeros(2, 4, 6, dtype=torch.bool)
    usage[..., 2] = usage[..., 5] = True  # the right column of a 2 x 3 grid
    big = mean_map(usage, (2, 3), (50, 80))
    assert big.shape == (50, 80) and float(big.min()) == 0 and float(big.max()) == 4
    assert bool((big.diff(dim=1) >= 0).all()) and not big.diff(dim=0).abs().max() > 1e-5


def same(share, part, whole):
    expected = len(part) / len(whole) if whole else math.nan
    assert float(share) == pytest.approx(expected, nan_ok=True)
