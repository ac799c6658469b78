"""The radial control: geometry and nothing else."""

import pytest
import torch

from tests.helpers.pairings import images, pruned
from tokenprune.errors import InvalidConfig

DISTANCES = {
    "l1": lambda r, c: abs(r) + abs(c),
    "l2": lambda r, c: (r * r + c * c) ** 0.5,
    "linf": lambda r, c: max(abs(r), abs(c)),
}


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize(("side", "keep"), [(32, 20), (36, 45), (32, 1)])
def test_the_nearest_to_the_centre_ties_to_the_earlier(norm, side, keep):
    """An even grid of 8 x 8 and an odd one of 9 x 9."""
    model = pruned({"name": "radial", "norm": norm}, "remove", {"name": "explicit", "keep": {1: keep}}, positions=(side // 4) ** 2)
    with torch.no_grad():
        present = model.encode(images(2, side=side)).present
    n = side // 4
    middle = (n - 1) / 2
    ranked = sorted(range(n * n), key=lambda p: (round(DISTANCES[norm](p // n - middle, p % n - middle), 9), p))
    assert [row.nonzero().flatten().tolist() for row in present] == [sorted(ranked[:keep])] * 2


def test_the_ranking_is_nested_and_oblong_grids_have_a_centre():
    model = pruned("radial", "remove", positions=32)
    with torch.no_grad():
        outputs = model.encode(torch.randn(1, 3, 16, 32))
    kept = outputs.present.view(4, 8)
    assert kept[1:3, 3:5].all() and not kept[:, [0, 7]].any()
    shares = [pruned("radial", "remove", {"name": "explicit", "keep": {1: k}}).encode(images(1)).present for k in (9, 10, 30)]
    assert (shares[0] <= shares[1]).all() and (shares[1] <= shares[2]).all()


def test_fused_tokens_stay_and_their_weights_are_positive():
    with torch.no_grad():
        outputs = pruned("radial", "fuse").encode(images(1))
    assert (outputs.state.index[outputs.state.live] == -1).sum() == 3
    assert outputs.state.tokens.isfinite().all()


def test_an_unknown_norm_is_refused():
    with pytest.raises(InvalidConfig, match="norm is 'l3'; allowed: l1, l2, linf"):
        pruned({"name": "radial", "norm": "l3"}, "remove")
