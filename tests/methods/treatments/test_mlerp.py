"""ToFu's treatment against its formula, and its two phases."""

import pytest
import torch

from tests.helpers.pairings import images, pruned
from tokenprune.engine.decision import Decision
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.methods.treatments.mlerp import Mlerp

TOKENS = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, -5.0]]])


def merged(variant):
    state = TokenState.start(TOKENS[:, :1], TOKENS, (2, 2))
    keep, target = torch.tensor([[True, False, True, False]]), torch.tensor([[0, 0, 2, 0]])
    return Mlerp(start=0, variant=variant).apply(state, Decision(keep, target=target))


def test_the_mean_has_the_norm_of_the_longest():
    mean = torch.tensor([3.0, -4.0]) / 3
    fixed, released = merged("fixed"), merged("released")
    torch.testing.assert_close(fixed.tokens[0, 0], mean / mean.norm() * 5)
    torch.testing.assert_close(released.tokens[0, 0], mean / 3 * 5)
    assert torch.equal(fixed.tokens[0, 2], TOKENS[0, 2]) and fixed.mass.tolist() == [[3, 1, 1, 1]]
    assert fixed.owner.tolist() == [[0, 0, 2, 0]]


@pytest.mark.parametrize("execution", ["masked", "gathered", "packed"])
def test_early_blocks_drop_and_late_ones_merge(execution):
    model = pruned("tofu", "mlerp", {"name": "explicit", "keep": {1: 50, 3: 40, 4: 30}}, execution)
    with torch.no_grad():
        outputs = model.encode(images(2))
        state, _ = model.run(model.start(images(2)), 0, 4)
    assert state.owner is None and state.present().sum(1).tolist() == [40, 40]  # depth 6: blocks 0 to 3 drop
    assert outputs.present.sum(1).tolist() == [40, 40] and outputs.state.counts().tolist() == [30, 30]
    assert (outputs.map[~outputs.present] == 0).all()


def test_all_blocks_can_merge():
    model = pruned("tofu", {"name": "mlerp", "start": 0}, {"name": "explicit", "keep": {1: 50}})
    with torch.no_grad():
        assert model.encode(images(2)).present.all()


@pytest.mark.parametrize(("options", "text"), [({"variant": "x"}, "variant is 'x'"), ({"start": -1}, "start is -1")])
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        Mlerp(**options)
