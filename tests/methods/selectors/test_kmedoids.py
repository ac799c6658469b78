"""K-Medoids against plain loops, the counter-example of its two objectives, and the laws of the fixed one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pairings import images, pruned, tiny_vit
from tests.methods.selectors.test_formulas import attention_of, entering
from tokenprune.errors import InvalidConfig, InvalidSchedule
from tokenprune.methods.selectors.kmedoids import VARIANTS, cluster
from tokenprune.methods.selectors.shared import distances as shared
from tokenprune.methods.selectors.shared.distances import distances
from tokenprune.registry import get


def by_hand(points, weights, count, iterations, variant):
    """Return the sorted medoids, by loops over clusters, members and candidates."""
    everyone = range(len(points))
    d = [[math.dist(a, b) for b in points] for a in points]
    medoids = sorted(everyone, key=lambda i: -weights[i])[:count]
    for _ in range(iterations):
        owner = [min(range(count), key=lambda k: d[j][medoids[k]]) for j in everyone]
        if variant == "fixed":
            for k, medoid in enumerate(medoids):
                owner[medoid] = k
        for k in range(count):
            members = [j for j in everyone if owner[j] == k]
            costs = {
                i: sum(weights[j] * d[i][j] for j in members) if variant == "fixed" else weights[i] * sum(d[i][j] for j in everyone)
                for i in members
            }
            medoids[k] = min(costs, key=costs.get) if costs else 0
    chosen = set(medoids)
    rest = sorted((i for i in everyone if i not in chosen), key=lambda i: -weights[i])
    return sorted([*chosen, *rest][:count])


def problem(seed, count, width=3):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(1, count, width, **draw), torch.rand(1, count, **draw)


def objective(points, weights, medoids):
    return float((weights * torch.cdist(points, points[:, medoids[0]]).amin(-1)).sum())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 14), st.integers(1, 14), st.integers(0, 4), st.sampled_from(VARIANTS))
def test_loops_find_the_same_medoids(seed, tokens, count, iterations, variant):
    points, weights = problem(seed, tokens)
    found = cluster(points, weights, min(count, tokens), iterations, variant)
    assert found[0].tolist() == by_hand(points[0].tolist(), weights[0].tolist(), min(count, tokens), iterations, variant)


@pytest.mark.parametrize(("variant", "medoids"), [("fixed", [1, 4]), ("released", [2, 3])])
def test_the_counter_example_of_the_two_objectives(variant, medoids):
    """Two clusters of three, the middle of each attended to: the released objective takes the inner ends of both."""
    points = torch.tensor([0.0, 1, 2, 100, 101, 102]).view(1, 6, 1)
    weights = torch.tensor([[1.0, 5, 1, 1, 5, 1]])
    assert cluster(points, weights, 2, 3, variant).tolist() == [medoids]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 39))
def test_the_fixed_objective_never_rises(seed, tokens, count):
    points, weights = problem(seed, tokens)
    costs = [objective(points, weights, cluster(points, weights, min(count, tokens), n)) for n in range(6)]
    assert all(after <= before + 1e-6 for before, after in zip(costs, costs[1:], strict=False))


def test_the_released_objective_may_rise():
    """So the law above is one that can fail."""
    problems = [problem(seed, 20) for seed in range(20)]
    costs = [[objective(p, w, cluster(p, w, 5, n, "released")) for n in (0, 3)] for p, w in problems]
    assert any(after > before + 1e-3 for before, after in costs)


def test_a_medoid_stays_in_its_own_cluster_though_another_is_at_the_same_place():
    """Tokens 0 and 1, both medoids at first, are equal: were all nearest to token 0, the second cluster would be empty."""
    points, weights = torch.tensor([0.0, 0, 5, 6, 7]).view(1, 5, 1), torch.tensor([[2.0, 2, 1, 1, 1]])
    assert [cluster(points, weights, 2, n)[0].tolist() for n in (0, 1, 2)] == [[0, 1], [1, 2], [0, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.sampled_from(VARIANTS))
def test_medoids_are_as_many_as_asked_for_and_distinct(seed, tokens, count, variant):
    """With equal points and equal weights, too, where the released update names tokens twice."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, 2, (2, tokens, 2), generator=generator).float()
    weights = torch.randint(0, 3, (2, tokens), generator=generator).float()
    found = cluster(points, weights, min(count, tokens), 3, variant)
    assert all(row == sorted(set(row)) and len(row) == min(count, tokens) for row in found.tolist())


@pytest.mark.parametrize("variant", VARIANTS)
def test_dead_slots_change_nothing(variant):
    torch.manual_seed(0)
    points, weights = torch.randn(2, 30, 4), torch.rand(2, 30)
    live = torch.zeros(2, 30, dtype=torch.bool)
    live[0, torch.randperm(30)[:20]] = live[1, torch.randperm(30)[:12]] = True
    alone = [cluster(points[b : b + 1, live[b]], weights[b : b + 1, live[b]], 7, 3, variant) for b in range(2)]
    expected = [live[b].nonzero().flatten()[alone[b][0]].tolist() for b in range(2)]
    for garbage in (torch.full_like(points, 1e4), 3 * torch.randn_like(points) + 2):
        found = cluster(points.where(live.unsqueeze(-1), garbage), weights.where(live, 9.0), 7, 3, variant, live)
        assert found.tolist() == expected


def test_every_blob_has_its_medoid():
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(1, 40, 3, generator=generator) + 100 * torch.eye(4, 3).repeat(1, 10, 1)
    weights = torch.rand(1, 40, generator=generator)
    weights[:, :4] += 1  # a start in each blob
    assert sorted(slot % 4 for slot in cluster(points, weights, 4)[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("score", ("column_mean", "cls"))
def test_weights_are_the_attention_of_the_block_before(score):
    vit, x = tiny_vit(), images(2)
    model = pruned({"name": "kmedoids", "score": score}, "remove", {"name": "explicit", "keep": {3: 20}}, vit=vit)
    with torch.no_grad():
        full = attention_of(vit, 2, entering(vit, 2, x))[0].mean(1)
        state, _ = model.run(model.start(x), 0, 4)
    received = (full[:, 0] if score == "cls" else full.mean(1))[:, 1:]
    points = entering(vit, 3, x)[:, 1:]
    for b in range(2):
        assert state.index[b].tolist() == by_hand(points[b].tolist(), received[b].tolist(), 20, 3, "fixed")


def test_medoids_go_on_as_they_are():
    model, x = pruned("kmedoids", "remove", {"name": "explicit", "keep": {2: 9}}), images(2)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 2)
        entered = []
        model.watch = lambda block, seen: entered.append(seen)
        model.run(state, 2, 3)
    for b in range(2):
        assert torch.equal(entered[0].tokens[b], state.tokens[b, entered[0].index[b]])


def test_distances_are_exact_enough_where_mixed_precision_is_not():
    """Far from the origin and under bfloat16 products; symmetric with zeros on the diagonal, to the bit."""
    points = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0)) + 50
    with torch.autocast("cpu", torch.bfloat16):
        found = distances(points, torch.ones(2, 30, dtype=torch.bool))
    expected = (points.double().unsqueeze(1) - points.double().unsqueeze(2)).norm(dim=-1)
    assert found.dtype == torch.float32 and torch.equal(found, found.mT) and (found.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    assert distances(points.bfloat16(), torch.ones(2, 30, dtype=torch.bool)).dtype == torch.float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_at_a_time_give_what_all_at_once_do(variant, monkeypatch):
    points, weights = problem(4, 33, 5)
    whole = cluster(points, weights, 12, 3, variant)
    monkeypatch.setattr(shared, "ROWS", 7)
    assert torch.equal(cluster(points, weights, 12, 3, variant), whole)
    assert whole[0].tolist() == by_hand(points[0].tolist(), weights[0].tolist(), 12, 3, variant)


def test_a_sum_within_clusters_by_hand():
    points, weights = problem(1, 9)
    apart = distances(points, torch.ones(1, 9, dtype=torch.bool))
    owner = torch.tensor([[0, 1, 0, 2, 1, 1, 0, 2, 2]])
    expected = [sum(float(weights[0, j] * apart[0, i, j]) for j in range(9) if owner[0, j] == owner[0, i]) for i in range(9)]
    with torch.autocast("cpu", torch.bfloat16):
        found = shared.within(apart.float(), owner, weights.float())
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_facts_and_macs():
    kind = get("selector", "kmedoids")
    assert (kind.site, kind.merging, kind.reads_cls, kind.learns, kind.count_role) == ("before", False, False, False, "count")
    assert kind.wants_cls({"score": "cls"}) and not kind.wants_cls({})
    model = pruned({"name": "kmedoids", "iterations": 5}, "remove")
    assert model.selectors["1"].macs(64) == 64 * 64 * (24 + 24 + 5)  # column means, distances, costs
    headless = tiny_vit(class_token=False, global_pool="avg")
    assert pruned("kmedoids", "remove", vit=headless).encode(images(1)).present.sum() == 21


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"score": "row"}, "score is 'row'; allowed: cls, mean_query, column_mean"),
        ({"variant": "new"}, "variant is 'new'; allowed: fixed, released"),
        ({"iterations": -1}, "iterations is -1; allowed: a whole number >= 0"),
        ({"iterations": 1.5}, "iterations is 1.5; allowed"),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        pruned({"name": "kmedoids", **options}, "remove")


def test_the_first_block_has_no_weights():
    with pytest.raises(InvalidSchedule, match="block 0 has none"):
        pruned("kmedoids", "remove", {"name": "explicit", "keep": {0: 20}})
