"""ToMe's oracles: lengths with the cap of one matching, masses, and the way back."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.legality import check_pairing


def lengths(schedule, depth, positions):
    """Return the length of the sequence after each block, class token included."""
    budgets = {b.block: b.keep for b in check_pairing("tome", "merge", schedule, depth=depth, positions=positions)}
    now, found = positions, []
    for block in range(depth):
        now = budgets.get(block, now)
        found.append(now + 1)
    return found


@pytest.mark.parametrize(
    ("remove", "depth", "positions", "expected"),
    [
        (8, 24, 196, [*range(189, 12, -8), 13, 7]),
        (16, 12, 196, [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]),
        (7, 32, 256, [*range(250, 32, -7)]),
    ],
    ids=["L/16", "B/16", "H/14"],
)
def test_published_lengths(remove, depth, positions, expected):
    found = lengths({"name": "per_block", "remove": remove, "start": 0, "align": False}, depth, positions)
    assert found == expected[: depth - 2] + expected[-2:] and len(found) == depth


def test_three_stages_cannot_more_than_halve():
    """TokenReduction's keep rate 0.5: 25 tokens are left, not 24."""
    budgets = check_pairing("tome", "merge", {"name": "stages", "keep_rate": 0.5}, depth=12, positions=196)
    assert [b.keep for b in budgets] == [98, 49, 25]


def still(vit):
    """Let blocks add nothing, so that only merging changes tokens."""
    with torch.no_grad():
        for block in vit.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    return vit


@pytest.mark.parametrize("execution", ["masked", "gathered", "packed"])
def test_masses_sum_to_n_and_every_position_reads_the_mean_of_its_group(execution):
    """Merged and merged again, the mean by mass is the mean of all that went in; a dense map gives it back to each of them."""
    plan = {"name": "per_block", "remove": 12, "start": 0, "align": False}
    model, x = pruned("tome", "merge", plan, execution, vit=still(tiny_vit())), images(2)
    with torch.no_grad():
        start = model.start(x)
        state, _ = model.run(start, 0, 6)
        map_ = state.dense()
    mass = state.mass.where(state.live, 0)
    assert map_.shape == (2, 64, 24) and torch.equal(mass.sum(1), torch.full((2,), 64.0)) and torch.equal(mass, mass.round())
    assert (mass[state.live] >= 1).all() and state.live.sum(1).tolist() == [4, 4]  # after 52, 40, 28, 16, 8
    for b in range(2):
        for position, owner in enumerate(state.owner[b].tolist()):
            group = (state.owner[b] == owner).nonzero().flatten()
            torch.testing.assert_close(map_[b, position], start.tokens[b, group].mean(0), atol=1e-5, rtol=1e-5)
            slot = ((state.index[b] == owner) & state.live[b]).nonzero().item()
            assert state.mass[b, slot] == len(group)
    assert torch.equal(state.prefix, start.prefix)


def test_merging_equal_tokens_changes_nothing():
    vit, x = tiny_vit(), images(1)
    model = pruned("tome", {"name": "merge", "proportional": True}, {"name": "explicit", "keep": {1: 33}}, vit=still(vit))
    with torch.no_grad():
        start = model.start(x)
        start = start.replace(tokens=start.tokens[:, :1].expand(-1, 64, -1).contiguous())
        state, _ = model.run(start, 1, 2)
    torch.testing.assert_close(state.dense(), start.tokens) and state.live.sum() == 33
