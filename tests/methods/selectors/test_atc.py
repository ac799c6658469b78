"""ATC's clusters against SciPy's, and against a loop where SciPy is missing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pairings import pruned
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.agglomeration import LINKAGES, clustered, together

OF = {"average": lambda d: sum(d) / len(d), "complete": max, "single": min}


def by_loops(apart, count, linkage):
    """Return sets of members: of all pairs of clusters the two closest join until `count` are left."""
    clusters = [{i} for i in range(len(apart))]
    while len(clusters) > count:
        pairs = [(a, b) for b in range(len(clusters)) for a in range(b)]
        far = {(a, b): OF[linkage]([float(apart[i, j]) for i in clusters[a] for j in clusters[b]]) for a, b in pairs}
        a, b = min(far, key=far.get)
        clusters[a] |= clusters.pop(b)
    return {frozenset(c) for c in clusters}


def groups(owner):
    return {frozenset((owner == o).nonzero().flatten().tolist()) for o in owner.unique()}


def distances(batch, slots, seed):
    x = torch.nn.functional.normalize(torch.randn(batch, slots, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return 1 - x @ x.transpose(1, 2)


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 14), st.sampled_from(LINKAGES), st.integers(0, 99), st.data())
def test_the_two_closest_clusters_join(slots, linkage, seed, data):
    apart, count = distances(2, slots, seed), data.draw(st.integers(1, slots))
    owner = clustered(apart, torch.ones(2, slots, dtype=torch.bool), slots - count, linkage)
    for image in range(2):
        assert groups(owner[image]) == by_loops(apart[image], count, linkage)
    apart = apart.double().masked_fill(torch.eye(slots, dtype=torch.bool), float("inf"))
    assert torch.equal(together(apart, slots - count, linkage), owner)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_the_first_of_equal_pairs_joins_either_way(linkage):
    """Distances of few values, so that almost every join is a tie."""
    draw = torch.randint(1, 4, (8, 12, 12), generator=torch.Generator().manual_seed(0)).double()
    apart = (draw.triu(1) + draw.triu(1).transpose(1, 2)).masked_fill(torch.eye(12, dtype=torch.bool), float("inf"))
    for joins in range(12):
        assert torch.equal(clustered(apart, torch.ones(8, 12, dtype=torch.bool), joins, linkage), together(apart.clone(), joins, linkage))


@pytest.mark.parametrize("linkage", LINKAGES)
def test_clusters_are_those_of_scipy(linkage):
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    apart = distances(2, 120, 3)
    owner = clustered(apart, torch.ones(2, 120, dtype=torch.bool), 70, linkage)
    for image in range(2):
        upper = apart[image][tuple(torch.triu_indices(120, 120, 1))].double().numpy()
        wanted = torch.as_tensor(hierarchy.fcluster(hierarchy.linkage(upper, linkage), 50, "maxclust"))
        assert groups(owner[image]) == groups(wanted) and len(groups(wanted)) == 50


def test_dead_slots_join_nothing():
    apart, live = distances(1, 9, 0), torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1, 1]], dtype=torch.bool)
    owner = clustered(apart, live, 4, "average")
    few = live[0].nonzero().flatten()
    assert owner[0, [2, 5]].tolist() == [2, 5]
    assert {frozenset(few[list(g)].tolist()) for g in by_loops(apart[0][few][:, few], 3, "average")} == groups(owner[0]) - {
        frozenset({2}),
        frozenset({5}),
    }


def test_an_unknown_linkage_is_refused():
    with pytest.raises(InvalidConfig, match="linkage is 'ward'"):
        pruned({"name": "atc", "linkage": "ward"}, "merge")
