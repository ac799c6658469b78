"""DPC-KNN against plain loops, its clusters' laws, and the weighted means of merging."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pairings import images, pruned, tiny_vit
from tests.methods.selectors.test_formulas import entering
from tokenprune.engine.context import Context
from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import keep_top
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.dpc_knn import NOISE, nearest_centre
from tokenprune.methods.selectors.shared import distances as shared
from tokenprune.methods.selectors.shared.density_peaks import peaks
from tokenprune.methods.selectors.shared.distances import distances
from tokenprune.methods.treatments.plain import Merge
from tokenprune.registry import get

ALIKE = {"name": "dpc_knn", "weighting": "equal"}


def scored_by_hand(points, neighbours=5):
    """Return rho delta of each token by the definition, not in logarithms, and the distances."""
    everyone = range(len(points))
    d = [[math.dist(a, b) / len(a) ** 0.5 for b in points] for a in points]
    near = [sorted(row)[:neighbours] for row in d]
    rho = [math.exp(-sum(x * x for x in row) / len(row)) for row in near]
    delta = [min((d[i][j] for j in everyone if (rho[j], -j) > (rho[i], -i)), default=max(map(max, d))) for i in everyone]
    return [r * x for r, x in zip(rho, delta, strict=True)], d


def by_hand(points, count):
    """Return {token: centre}."""
    scores, d = scored_by_hand(points)
    everyone = range(len(points))
    centres = sorted(everyone, key=lambda i: -scores[i])[:count]
    return {i: i if i in centres else min(centres, key=lambda c: d[i][c]) for i in everyone}


def clusters(points, count, live=None):
    """Return {token: centre} of the code under test, for one image."""
    live = torch.ones(points.shape[:2], dtype=torch.bool) if live is None else live
    apart = distances(points, live) / points.shape[-1] ** 0.5
    chosen = keep_top(peaks(apart, live), live, count)
    return dict(enumerate(nearest_centre(apart, chosen.slots)[0].tolist()))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 20), st.integers(1, 4))
def test_loops_find_the_same_clusters(seed, tokens, count, width):
    points = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = clusters(points, min(count, tokens))
    assert found == by_hand(points[0].tolist(), min(count, tokens))
    assert len(set(found.values())) == min(count, tokens)  # as many as asked for, none empty
    assert all(found[centre] == centre for centre in found.values())
    everyone = torch.ones(1, tokens, dtype=torch.bool)
    scores = peaks(distances(points, everyone) / width**0.5, everyone)[0].exp()
    assert scores.tolist() == pytest.approx(scored_by_hand(points[0].tolist())[0], rel=1e-5, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_equal_tokens_make_no_fewer_clusters(seed, tokens, count):
    points = torch.randint(0, 2, (1, tokens, 2), generator=torch.Generator().manual_seed(seed)).float()
    found = clusters(points, min(count, tokens))
    assert len(set(found.values())) == min(count, tokens)


def test_of_equal_densities_the_first_is_the_peak():
    """Five tokens at one place are one centre: the other centre is one of the two that lie apart."""
    found = clusters(torch.tensor([0.0, 0, 9, 0, 0, 0, 9.5]).view(1, 7, 1), 2)
    assert {found[i] for i in (0, 1, 3, 4, 5)} == {0} and found[2] == found[6] != 0


def test_rows_at_a_time_give_what_all_at_once_do(monkeypatch):
    points = torch.randn(2, 33, 5, generator=torch.Generator().manual_seed(2))
    live = torch.ones(2, 33, dtype=torch.bool)
    live[1, ::4] = False
    apart = distances(points, live)
    whole = peaks(apart, live), nearest_centre(apart, torch.tensor([[3, 8, 20], [1, 2, 30]]))
    monkeypatch.setattr(shared, "ROWS", 7)
    assert torch.equal(peaks(apart, live), whole[0])
    assert torch.equal(nearest_centre(apart, torch.tensor([[3, 8, 20], [1, 2, 30]])), whole[1])
    assert torch.equal(peaks(apart[:1], None), whole[0][:1])


def test_two_blobs_are_two_clusters():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, 24, 6, generator=generator)
    points[:, ::3] += 30
    found = clusters(points, 2)
    assert len({found[i] for i in range(0, 24, 3)}) == 1 and len({found[i] for i in range(24) if i % 3}) == 1
    assert len(set(found.values())) == 2


def test_densities_do_not_underflow():
    """So far apart that exp(-d^2) is 0 in single precision everywhere; the centres are what double precision says."""
    points = 15 * torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(1))
    apart = distances(points, torch.ones(1, 20, dtype=torch.bool)) / 4
    assert (-apart.topk(5, largest=False).values.square().mean(-1)).exp().max() == 0
    assert clusters(points, 6) == by_hand(points[0].tolist(), 6)


def test_other_order_same_clusters():
    points = torch.randn(1, 30, 5, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
    found, moved = clusters(points, 8), clusters(points[:, order], 8)
    assert {int(order[i]): int(order[c]) for i, c in moved.items()} == found


def test_dead_slots_change_nothing():
    torch.manual_seed(0)
    points, slots = torch.randn(1, 30, 4), torch.randperm(30)[:12].sort().values
    for alive in (slots, slots[:3]):  # fewer than there are neighbours to look for, too
        live = torch.zeros(1, 30, dtype=torch.bool).index_fill(1, alive, True)
        alone, everyone = clusters(points[:, alive], 3), torch.ones(1, len(alive), dtype=torch.bool)
        for garbage in (torch.full_like(points, 1e3), 0.1 * torch.randn_like(points)):
            loud = points.where(live.unsqueeze(-1), garbage)
            found = clusters(loud, 3, live)
            assert {int(alive[i]): int(alive[c]) for i, c in alone.items()} == {i: c for i, c in found.items() if live[0, i]}
            here, there = peaks(distances(loud, live), live), peaks(distances(points[:, alive], everyone), everyone)
            torch.testing.assert_close(here[:, alive], there, atol=1e-4, rtol=1e-4)


def test_equal_tokens_do_not_make_a_dead_one_a_centre():
    live = torch.tensor([[False, False, True, True, True]])
    found = clusters(torch.ones(1, 5, 3), 3, live)
    assert [found[i] for i in (2, 3, 4)] == [2, 3, 4]


@pytest.mark.parametrize("selector", [ALIKE, "dpc_knn"])
def test_a_centre_becomes_the_mean_of_its_cluster(selector):
    """Of tokens, whatever was merged into each before; masses and owners follow; both weightings agree before training."""
    vit, x = tiny_vit(), images(2)
    treatment = {"name": "merge", "proportional": False}
    model = pruned(selector, treatment, {"name": "explicit", "keep": {2: 20, 3: 9}}, vit=vit)
    entered = {}
    model.watch = lambda block, state: entered.update({block: state})
    with torch.no_grad():
        before = entering(vit, 2, x)[:, 1:]
        first, _ = model.run(model.start(x), 0, 3)
        model.run(first, 3, 4)
    assert model.treatment.key_bias(entered[3]) is None
    for stage, tokens, sizes in ((entered[2], before, torch.ones(2, 64)), (entered[3], first.tokens, entered[2].mass)):
        for b in range(2):
            found = by_hand(tokens[b].tolist(), stage.live.shape[1])
            for slot, centre in enumerate(sorted(set(found.values()))):
                members = [i for i, c in found.items() if c == centre]
                torch.testing.assert_close(stage.tokens[b, slot], tokens[b, members].mean(0))
                assert stage.mass[b, slot] == sizes[b, members].sum()
    assert torch.equal(entered[3].mass.sum(1), torch.full((2,), 64.0))
    for b in range(2):
        sizes = entered[3].owner[b].bincount(minlength=64)[entered[3].index[b]]
        assert torch.equal(sizes.float(), entered[3].mass[b])


def test_learned_weights_are_exponentials_and_learn():
    model = pruned("dpc_knn", "merge", {"name": "explicit", "keep": {2: 20}}).train()
    weigh = model.selectors["2"].weigh
    with torch.no_grad():
        weigh.weight.normal_()
        weigh.bias.fill_(200.0)  # a common factor that no floating-point number can hold
    state, _ = model.run(model.start(images(2)), 0, 2)
    entered = {}
    model.watch = lambda block, seen: entered.update({block: seen})
    after, _ = model.run(state, 2, 3)
    found, tokens = by_hand(state.tokens[1].tolist(), 20), state.tokens[1].double()
    for slot, centre in enumerate(sorted(set(found.values()))):
        members = [i for i, c in found.items() if c == centre]
        weight = (tokens[members] @ weigh.weight[0].double()).exp()
        expected = (weight[:, None] * tokens[members]).sum(0) / weight.sum()
        torch.testing.assert_close(entered[2].tokens[1, slot], expected.float(), atol=1e-5, rtol=1e-4)
    after.tokens.square().sum().backward()
    assert weigh.weight.grad.abs().sum() > 0 and model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("live", [True, False])
def test_a_decisions_weight_is_the_weight_in_the_mean(live):
    """Slots 0 and 2 go to slot 1; a dead slot 3, with a weight and a target of its own, has no part in it."""
    tokens = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])
    state = TokenState.start(torch.zeros(1, 0, 1), tokens, (2, 2))
    alive = torch.tensor([[True, True, True, live]])
    state = state.replace(live=alive, complete=live)
    keep, weight = torch.tensor([[False, True, False, live]]), torch.tensor([[1.0, 2.0, 5.0, 7.0]])
    target = torch.tensor([[1, 1, 1, 3]] if live else [[1, 1, 1, 1]])
    after = Merge().apply(state, Decision(keep, target=target, weight=weight, slots=torch.tensor([[1, 3]]) if live else None))
    assert after.tokens[0, 1].item() == pytest.approx((1 + 2 * 10 + 5 * 100) / 8) and after.tokens[0, 3] == 1000
    assert after.mass[0, 1] == 3 and after.owner[0].tolist() == [1, 1, 1, 3]
    by_mass = Merge().apply(state, Decision(keep, target=target))
    assert by_mass.tokens[0, 1].item() == pytest.approx(37) and by_mass.mass[0, 1] == 3


def test_noise_breaks_ties_only_and_is_the_images_own():
    """Equal densities, which `fixed` tells apart by order: the noise chooses among them, always alike for the same picture."""
    budget, x = Budget(1, 2, 4, None), images(6)
    tokens = torch.eye(4).expand(6, 4, 4) * 3  # all equally far apart
    state = TokenState.start(torch.zeros(6, 1, 4), tokens, (2, 2), x)
    kinds = {v: get("selector", "dpc_knn")(Context(4, 1, 1, budget, 3, 1), "equal", v).eval() for v in ("fixed", "released")}
    keeps = {v: kind.score(Observation(state, 1), budget).keep for v, kind in kinds.items()}
    assert keeps["fixed"].tolist() == [[True, True, False, False]] * 6
    assert torch.equal(keeps["released"], kinds["released"].score(Observation(state, 1), budget).keep)
    assert (keeps["released"].sum(1) == 2).all() and len({tuple(row) for row in keeps["released"].tolist()}) > 1
    apart = distances(torch.randn(1, 20, 4), torch.ones(1, 20, dtype=torch.bool)) / 2
    noisy = peaks(apart, torch.ones(1, 20, dtype=torch.bool), NOISE * torch.rand(1, 20))
    torch.testing.assert_close(noisy, peaks(apart, torch.ones(1, 20, dtype=torch.bool)), atol=1e-3, rtol=1e-3)


def test_facts_and_macs():
    kind = get("selector", "dpc_knn")
    assert kind.merging and not kind.learns and not kind.reads_cls and kind.published["treatment"]["proportional"] is False
    assert pruned("dpc_knn", "merge").selectors["1"].macs(64) == 64 * 64 * 24 + 64 * 24
    assert pruned(ALIKE, "merge").selectors["1"].macs(64) == 64 * 64 * 24


@pytest.mark.parametrize(("option", "allowed"), [("weighting", "learned, equal"), ("variant", "fixed, released")])
def test_what_cannot_be_is_refused(option, allowed):
    with pytest.raises(InvalidConfig, match=f"{option} is 'x'; allowed: {allowed}"):
        pruned({"name": "dpc_knn", option: "x"}, "merge")


@pytest.mark.parametrize("execution", ["masked", "gathered", "packed"])
@torch.no_grad()
def test_released_means_shrink_where_weights_are_small(execution):
    """The released code divides by the sum of weights plus 1e-6, so that a cluster of weights near 1e-6 loses half of its length."""
    options = {"name": "dpc_knn", "variant": "released", "noise": False}
    model = pruned(options, "merge", {"name": "explicit", "keep": {2: 20}}, execution)
    model.selectors["2"].weigh.bias.fill_(-14.0)
    model.selectors["2"].weigh.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    state, entered = model.run(model.start(images(2)), 0, 2)[0], {}
    model.watch = lambda block, seen: entered.update({block: seen})
    model.run(state, 2, 3)
    after = entered[2]
    for b in range(2):
        found, tokens = by_hand(state.tokens[b].tolist(), 20), state.tokens[b].double()
        slot_of = {int(place): slot for slot, place in enumerate(after.index[b]) if after.live[b, slot]}
        for centre in set(found.values()):
            members = [i for i, c in found.items() if c == centre]
            weight = model.selectors["2"].weigh.double()(tokens[members]).squeeze(-1).exp()
            expected = (weight[:, None] * tokens[members]).sum(0) / (weight.sum() + 1e-6)
            torch.testing.assert_close(after.tokens[b, slot_of[centre]], expected.float(), atol=1e-5, rtol=1e-4)
            assert expected.norm() < 0.99 * (weight[:, None] * tokens[members]).sum(0).div(weight.sum()).norm()


def test_noise_is_of_the_released_variant_and_can_be_left_out():
    x = images(2)
    noisy, quiet, fixed = (
        pruned({"name": "dpc_knn", **options}, "merge").eval()
        for options in ({"variant": "released"}, {"variant": "released", "noise": False}, {})
    )
    assert noisy.selectors["1"].noisy and not quiet.selectors["1"].noisy and not fixed.selectors["1"].noisy
    with torch.no_grad():
        assert torch.equal(quiet.encode(x).state.index, fixed.encode(x).state.index)
