"""Selectors that merge against plain loops over images and tokens, at a first decision, where every slot holds its own position."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.pairings import images, pruned, tiny_vit
from tests.methods.selectors.test_formulas import attention_of, entering
from tokenprune.engine.hooks import DecisionListener
from tokenprune.errors import InvalidConfig, InvalidSchedule
from tokenprune.methods.treatments.plain import Merge

KEEP = {"name": "explicit", "keep": {2: 40}}


def decided(selector, schedule=KEEP, treatment="merge", block=2, count=3):
    """Return what the selector saw at a block, its budget, its decision, and the state after it, of `count` images."""
    model, heard = pruned(selector, treatment, schedule), []
    model.listener = DecisionListener(block, lambda *what: heard.append(what))
    with torch.no_grad():
        model.encode(images(count))
        (seen, budget, decision) = heard[0]
        return seen, budget, decision, Merge().apply(seen.state, decision)


def by(scores, order=None):
    """Return places by falling score, the first first in a tie."""
    return sorted(range(len(scores)) if order is None else order, key=lambda place: -float(scores[place]))


def cosine(x):
    return F.cosine_similarity(x[:, None], x[None], dim=-1)


def matching(similarity, ranked, merges):
    """Return {source: target} of ToMe's matching of slots in an order, with a class token at rank 0."""
    a, b = ranked[1::2], ranked[0::2]
    best = {i: max(b, key=lambda j, i=i: float(similarity[i, j])) for i in a}
    return {i: best[i] for i in sorted(a, key=lambda i: -float(similarity[i, best[i]]))[:merges]}


def agrees(seen, decision, after, image, moves, gone=()):
    """Check one image's decision and the means by mass that follow from {source: target}, where `gone` have no target."""
    dropped = {slot for slot in range(64) if not decision.keep[image, slot]}
    assert dropped == set(moves) | set(gone)
    groups = {k: [k, *(i for i, j in moves.items() if j == k)] for k in range(64) if k not in dropped}
    for k, members in groups.items():
        torch.testing.assert_close(after.tokens[image, k], seen.tokens[image, members].mean(0), atol=1e-5, rtol=1e-5)
        assert all(after.owner[image, i] == k for i in members)
    return groups


def test_diffrate_drops_the_least_attended_and_merges_the_next():
    lists = {"name": "counts", "prune": [65, 65, 50, 65, 65, 65], "merge": [65, 65, 31, 65, 65, 65], "positions": 64}
    seen, budget, decision, after = decided("diffrate", lists)
    assert (budget.live, budget.between, budget.keep) == (64, 49, 30)
    with torch.no_grad():
        attention = attention_of(tiny_vit(), 2, entering(tiny_vit(), 2, images(3)))[0]
    for image in range(3):
        order, near = by(attention[image, :, 0, 1:].mean(0)), cosine(seen.tokens[image])
        kept, rest, gone = order[:30], order[30:49], order[49:]
        moves = {i: max(kept, key=lambda k, i=i: float(near[i, k])) for i in rest}
        groups = agrees(seen, decision, after, image, moves, gone)
        for k, members in groups.items():
            size = 1 + sum(max(float(near[i, k]), 0.0) for i in members[1:])
            assert float(after.mass[image, k]) == pytest.approx(size, abs=1e-5)
        assert not after.present()[image, gone].any()


def test_a_released_diffrate_lets_a_negative_cosine_take_size_away():
    lists = {"name": "counts", "prune": [65] * 6, "merge": [65, 65, 4, 65, 65, 65], "positions": 64}
    masses = {v: decided({"name": "diffrate", "variant": v}, lists)[3] for v in ("fixed", "released")}
    live = masses["fixed"].live
    assert (masses["fixed"].mass[live] >= 1).all() and (masses["released"].mass[live] < masses["fixed"].mass[live]).any()
    with pytest.raises(InvalidConfig, match="variant is 'x'"):
        pruned({"name": "diffrate", "variant": "x"}, "merge", lists)


@pytest.mark.parametrize(("threshold", "prunes"), [(0.0, True), (1.0, False)])
def test_ppt_prunes_or_pools(threshold, prunes):
    seen, budget, decision, after = decided({"name": "ppt", "threshold": threshold})
    with torch.no_grad():
        attention, values, keys = attention_of(tiny_vit(), 2, entering(tiny_vit(), 2, images(3)))
    for image in range(3):
        norms = values[image, :, 1:].transpose(0, 1).flatten(1).norm(dim=-1)
        score = attention[image, :, 0, 1:].sum(0) * norms
        order = by(score)
        if prunes:
            agrees(seen, decision, after, image, {}, order[40:])
            assert decision.order[image].tolist() == order[:40]  # falling, which a later split by rank reads
        else:
            moves = matching(cosine(keys[image].mean(0)[1:]), list(range(64)), 24)
            agrees(seen, decision, after, image, moves)
            a = [slot for slot in range(1, 64, 2) if slot not in moves]
            assert decision.order[image].tolist() == a + list(range(0, 64, 2))


def test_ppt_decides_for_each_image_by_the_unbiased_variance():
    seen, _, decision, _ = decided("ppt")
    score = decision.score.tolist()
    spread = [sum((p - 1 / 64) ** 2 for p in row) / 63 for row in score]
    middle = sorted(spread)[1]
    for threshold, both in ((middle * 1.0001, [s > middle for s in spread]), (middle * 0.9999, [s >= middle for s in spread])):
        decision = decided({"name": "ppt", "threshold": threshold})[2]
        assert decision.vanish.any(1).tolist() == both and len(set(both)) == 2
        assert (~decision.keep).sum(1).tolist() == [24] * 3


@pytest.mark.parametrize(("block", "protects"), [(2, False), (3, True)])
def test_pitome_merges_where_energy_is_high(block, protects):
    seen, _, decision, after = decided("pitome", {"name": "explicit", "keep": {block: 50}}, block=block)
    with torch.no_grad():
        keys = attention_of(tiny_vit(), block, entering(tiny_vit(), block, images(3)))[2]
    for image in range(3):
        near = cosine(keys[image].mean(0)[1:])
        margin = 0.75 - 0.75 * block / 6
        energy = [sum(c - margin if c > margin else math.expm1(c - margin) for c in row) / 64 for row in near.tolist()]
        order = by(energy)[: 28 if protects else 64]
        a, b = order[::2], order[1::2]
        best = {i: max(b, key=lambda j, i=i: float(near[i, j])) for i in a}
        sources = sorted(a, key=lambda i: -float(near[i, best[i]]))[:14]
        agrees(seen, decision, after, image, {i: best[i] for i in sources})


def test_pitome_changes_its_halves_over():
    early, late = (pruned({"name": "pitome", "first": first}, "merge", "stages").selectors.values() for first in ("bsm", "pitome"))
    assert [s.protects for s in early] == [not s.protects for s in late] == [False, False, True]


def test_tofu_pairs_as_tome_does():
    decision, other = decided("tofu")[2], decided("tome")[2]
    assert torch.equal(decision.keep, other.keep)
    assert torch.equal(decision.targets.where(~decision.keep, -1), other.targets.where(~other.keep, -1))
    assert torch.equal(decision.order, other.slots)


def attraction(x, alpha, sizes):
    """Return W (64,64) as Eq. 4 to 7 write it."""
    u, w = (1 / alpha) / (1 / alpha).max(), 1 / sizes
    return ((cosine(x) + 1) / 2) * (u[:, None] * u[None]) ** (1 / 20) * (w[:, None] * w[None]) ** (1 / 40)


def two_ways(weight, merges):
    """Return {source: target} of the two directions, and the order that is left."""
    ranked = list(range(64))
    first = matching(weight, ranked, merges // 2)
    left = [slot for slot in ranked[1::2] if slot not in first]
    best = {j: max(left, key=lambda i, j=j: float(weight[i, j])) for j in ranked[0::2]}
    falling = sorted(best, key=lambda j: -float(weight[best[j], j]))
    second = {j: best[j] for j in falling[: merges - merges // 2]}
    return {**{i: second.get(j, j) for i, j in first.items()}, **second}, left + falling[merges - merges // 2 :]


def test_mctf_merges_both_ways_and_groups_its_attention():
    """One whole block against matrices: the map's columns add, its rows are means, and values are made of merged tokens."""
    vit, x, merges = tiny_vit(), images(3), 24
    model = pruned("mctf", "merge", KEEP, vit=vit)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 3)
        before = entering(vit, 2, x)
        attention = attention_of(vit, 2, before)[0]
        for image in range(3):
            alpha = attention[image].mean((0, 1))
            moves, order = two_ways(attraction(before[image, 1:], alpha[1:], torch.ones(64)), merges)
            groups = [[0], *([k + 1, *(i + 1 for i, j in moves.items() if j == k)] for k in order)]
            member = torch.zeros(len(groups), 65)
            for number, slots in enumerate(groups):
                member[number, slots] = alpha[slots] / alpha[slots].sum() if number else 1.0
            merged = member @ before[image]
            map_ = member @ attention[image] @ (member > 0).float().T
            torch.testing.assert_close(map_.sum(-1), torch.ones(3, 41))
            block = vit.blocks[2]
            values = block.attn.qkv(block.norm1(merged)).reshape(41, 3, 3, 8)[:, 2].transpose(0, 1)
            y = merged + block.attn.proj((map_ @ values).transpose(0, 1).flatten(1))
            y = y + block.mlp(block.norm2(y))
            torch.testing.assert_close(state.sequence()[image], y, atol=1e-5, rtol=1e-5)
            assert state.mass[image].tolist() == [len(slots) for slots in groups[1:]]


def test_mctf_refuses_what_it_cannot_do():
    for options, error, text in (
        ({"mode": "late"}, InvalidConfig, "mode is 'late'"),
        ({"pool": "max"}, InvalidConfig, "pool is 'max'"),
        ({"tau_sim": -1.0}, InvalidConfig, "temperatures are"),
        ({"mode": "after"}, InvalidSchedule, "block 0 has none"),
    ):
        with pytest.raises(error, match=text):
            pruned({"name": "mctf", **options}, "merge", {"name": "explicit", "keep": {0: 40}})


def test_a_short_sequence_keeps_ten_tokens_of_mctf():
    from tokenprune.methods.selectors.mctf import limit

    assert [limit(live, 1) for live in (196, 30, 12, 9, 5)] == [98, 15, 3, 0, 0]
