"""Thresholds after calibration: usage meets its target, block by block, through any dense module."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.pairings import images, pruned
from tokenprune.backbones.maps import DenseMap
from tokenprune.engine.hooks import DecisionListener
from tokenprune.methods.selectors.shared.gates import cut
from tokenprune.training.calibration import calibrate, images_wanted, mean_usage

EVERY = {"name": "every_block", "start": 1, "span": 2}
STAGES = {"name": "stages", "blocks": [1, 2, 4]}


def shares(model, batches):
    """Mean share of the positions that each block uses."""
    model.eval()
    with torch.no_grad():
        used = [torch.stack([u.attended - model.prefix_tokens for u in model.encode(b).usage]) for b in batches]
    return (torch.cat(used, 1).double().mean(1) / 64).tolist()


@pytest.mark.parametrize(("treatment", "schedule"), [("reactivate", EVERY), ("preserve", STAGES), ("remove", STAGES)])
@pytest.mark.parametrize("gate", ["mlp", "complex"])
def test_usage_meets_the_target_on_the_calibration_images(treatment, schedule, gate):
    model, batches = pruned({"name": "svit", "gate": gate}, treatment, schedule), [images(5), images(3, seed=7)]
    for selector in model.selectors.values() if gate == "complex" else ():
        selector.gate.last.weight.data.mul_(1000.0)  # at first the predictor says 1/2 to all, and float32 cannot tell tokens apart
    before = mean_usage(model, model.encode, batches)
    calibrate(model, model.encode, batches)
    after = shares(model, batches)
    for number, budget in model.budgets(64).items():
        assert after[number] == pytest.approx(float(budget.rate), abs=1 / 64)
    assert mean_usage(model, model.encode, batches) == pytest.approx(sum(after) / 6) != before
    assert all(s.caveat == "" for s in model.selectors.values())


def test_it_works_in_the_middle_of_a_detector_and_puts_modes_back():
    model = pruned("svit", "reactivate", EVERY).train()
    dense = DenseMap(model)
    calibrate(model, dense, [images(4)])
    assert model.training and all(m.training for m in model.modules())
    assert model.listener is None
    assert shares(model, [images(4)])[5] == pytest.approx(0.7**3, abs=1 / 64)


def test_a_mistake_in_the_encoder_is_not_swallowed():
    model = pruned("svit", "reactivate", EVERY)

    def broken(batch):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        calibrate(model, broken, [images(2)])
    assert model.listener is None


def test_a_listener_hears_one_block_and_the_pass_ends_there():
    model, heard = pruned("svit", "reactivate", EVERY), []
    model.listener = DecisionListener(3, lambda seen, budget, decision: heard.append((seen.block, budget.block, decision.keep)))
    with torch.no_grad():
        state, first = model.run(model.start(images(2)), 0, 2)
        state, second = model.run(state, 2, 5)
        unchanged, none = model.run(state, 5, 6)
    assert [(seen, budget) for seen, budget, _ in heard] == [(3, 3)] and len(first + second) == 4 and none == () and unchanged is state
    assert torch.equal(heard[0][2], state.present())
    model.listener = None
    assert len(model.encode(images(2)).usage) == 6


def test_a_gate_that_the_schedule_no_longer_asks_is_left_as_it_is():
    """Here the gates of blocks 1, 2, 4 and 5 decide in the first half of training only."""
    model = pruned("svit", "reactivate", {"name": "constant", "rate": 0.5, "start": 0, "span": 3, "stage_wise_from": 0.5})
    assert sorted(model.selectors, key=int) == ["0", "1", "2", "3", "4", "5"] and sorted(model.budgets(64)) == [0, 3]
    calibrate(model, model.encode, [images(4)])
    assert [float(s.threshold) == 0.5 for s in model.selectors.values()] == [False, True, True, False, True, True]


def test_selectors_without_thresholds_want_no_images():
    assert images_wanted(pruned("evit", "remove")) == 0
    assert images_wanted(pruned({"name": "svit", "eval_mode": "topk"}, "reactivate")) == 0
    assert images_wanted(pruned("svit", "reactivate")) == 64


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(0, 1))
def test_the_cut_is_the_best_there_is(values, share):
    scores, keep = torch.tensor(values, dtype=torch.float32) / 30, share * len(values)
    found = int((scores > cut(scores, keep)).sum())
    possible = [int((scores >= v).sum()) for v in scores.unique()]
    assert found in possible and abs(found - keep) == min(abs(p - keep) for p in possible)


def test_the_cut_keeps_its_distance_from_scores():
    assert cut(torch.tensor([0.9, 0.7, 0.1]), 2) == pytest.approx(0.4)
    assert cut(torch.tensor([0.9, 0.7]), 2) == float("-inf")
