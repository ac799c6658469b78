"""The scores that read no attention, against their formulas."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tests.methods.selectors.test_formulas import entering
from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.errors import InvalidSchedule

FIRST = {"name": "explicit", "keep": {2: 20}}


@pytest.mark.parametrize("execution", ["masked", "gathered"])
def test_the_tokens_that_a_block_moved_most_stay(execution):
    vit, x = tiny_vit(), images(3)
    model = pruned("representation_shift", "remove", FIRST, execution, vit)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, 3)
        shift = (entering(vit, 2, x) - entering(vit, 1, x))[:, 1:].norm(dim=-1)
    assert torch.equal(state.present().nonzero(), torch.zeros(3, 64).scatter(1, shift.topk(20, 1).indices, 1).nonzero())


def test_block_0_has_no_shift():
    with pytest.raises(InvalidSchedule, match="no block is before block 0"):
        pruned("representation_shift", "remove", {"name": "explicit", "keep": {0: 20}})


def test_every_block_runs_as_the_models_own(monkeypatch):
    model, taken_apart = pruned("representation_shift", "remove", FIRST, "gathered"), []
    monkeypatch.setattr(BaseBlock, "project", lambda adapter, *given: taken_apart.append(adapter.number))
    with torch.no_grad():
        model(images(2))
    assert taken_apart == []


def test_a_fused_token_which_has_no_shift_leaves_gradients_finite():
    vit = tiny_vit()
    model = pruned("representation_shift", "fuse", {"name": "explicit", "keep": {1: 40, 2: 20}}, vit=vit).train()
    model(images(2)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_high_frequencies_stay_and_the_rest_is_one_mean():
    vit, x = tiny_vit(), images(3)
    model = pruned("frequency", "fuse", FIRST, vit=vit)
    with torch.no_grad():
        whole = entering(vit, 2, x)[:, 1:]
        state = model._decide(2, model.selectors["2"], model.budgets(64)[2], model.run(model.start(x), 0, 2)[0])
    high = (whole - whole.mean(1, keepdim=True)).square().sum(-1)
    for image in range(3):
        order = sorted(range(64), key=lambda slot, image=image: -float(high[image, slot]))
        assert sorted(state.live[image].nonzero().flatten().tolist()) == [*sorted(order[:20]), 64]
        torch.testing.assert_close(state.tokens[image, 64], whole[image, order[20:]].mean(0), atol=1e-5, rtol=1e-5)
