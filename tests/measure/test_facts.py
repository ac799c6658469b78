"""What a model costs, how fast it is and which tokens it keeps, against the modules that measure these."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

import tokenprune
from tests.helpers.pairings import DEPTH, SIDE, images, pruned
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure import facts
from tokenprune.measure.macs import encoder_cost, planned_macs
from tokenprune.measure.usage import record

GIGA = 1e9


def evit():
    return pruned({"name": "evit"}, "fuse")


def test_cost_is_what_the_schedule_plans_by_both_conventions():
    model = evit()
    found, plan = tokenprune.cost(model), planned_macs(model, 64)
    dense = planned_macs(tokenprune.prune(model.backbone), 64)
    assert (found.gmac, found.gmac_linear) == (plan.total / GIGA, plan.linear / GIGA)
    assert (found.dense, found.dense_linear) == (dense.total / GIGA, dense.linear / GIGA)
    assert found.gmac == pytest.approx(found.gmac_linear + found.gmac_attention + found.gmac_selector) and found.gmac_norm > 0
    assert found.kept == pytest.approx([64 * share for share in plan.kept_per_block]) and len(found.kept) == DEPTH
    assert found.share == found.gmac / found.dense < 1


def test_cost_of_images_is_that_of_result_rows():
    model, x = pruned({"name": "ats"}, "remove"), images(3)
    found = tokenprune.cost(model, x)
    rows = encoder_cost(model, x.split(1))
    assert found.gmac == pytest.approx(rows["gmac_total"]) and found.gmac_linear == pytest.approx(rows["gmac_linear"])
    assert [count / 64 for count in found.kept] == pytest.approx(rows["kept_per_block"], abs=1e-4)
    assert "3 images" in found.how


def test_cost_counts_the_head_on_request_and_other_sizes():
    model = evit()
    assert tokenprune.cost(model, head=True).gmac == planned_macs(model, 64, head=True).total / GIGA > tokenprune.cost(model).gmac
    assert tokenprune.cost(model, size=2 * SIDE).positions == 256 == tokenprune.cost(model, size=(4 * SIDE, SIDE)).positions


def test_cost_of_a_timm_model_is_the_dense_one():
    found = tokenprune.cost(timm.create_model("deit_small_patch16_224"))
    assert found.share == 1.0 and found.kept == (196.0,) * 12
    assert found.gmac == pytest.approx(4.6, abs=0.02)  # as DeiT's paper prints it


def test_the_text_of_a_cost_says_both_conventions_and_the_tokens():
    found = tokenprune.cost(evit())
    first, second, third, last = str(found).splitlines()
    assert f"{found.gmac:.3f} GMAC" in first and "linear + attention + selector" in first
    assert f"{found.gmac_linear:.3f} GMAC" in second and "linear alone" in second
    assert third.startswith("tokens in each block, of 64: 64 64 ") and last == "(as the schedule plans it)"


@pytest.mark.parametrize("size", [0, -32, "224", (32, 0), (32,), True, 2.5])
def test_cost_refuses_what_is_no_size(size):
    with pytest.raises(InvalidConfig, match="cost: size is .*allowed"):
        tokenprune.cost(evit(), size=size)


def test_cost_refuses_a_size_beside_images():
    with pytest.raises(InvalidConfig, match="one of the two"):
        tokenprune.cost(evit(), images(1), size=32)


def test_speed_is_the_median_of_each_rounds_own_ratio(monkeypatch):
    def in_turn(calls, rounds, device, warmup):
        assert list(calls) == ["pruned", "dense"] and rounds == 5
        assert not any(call.func.training for call in calls.values())
        return {"pruned": [1.0, 2.0, 1.0, 4.0, 1.0], "dense": [2.0, 2.0, 3.0, 4.0, 1.5]}

    monkeypatch.setattr(facts, "seconds_in_turn", in_turn)
    model = evit().train()
    found = tokenprune.speed(model, images=images(2), rounds=5)
    assert (found.seconds, found.seconds_dense, found.speedup) == (1.0, 2.0, 1.5) and model.training
    assert (found.quartiles, found.quartiles_dense, found.quartiles_speedup) == ((1.0, 2.0), (2.0, 3.0), (1.0, 2.0))
    assert found.batch == 2 and found.images_per_second == 2.0
    assert str(found).splitlines()[0] == "1.50 times the dense speed (quartiles 1.00 to 2.00)"
    assert str(found).splitlines()[1] == "pruned: 2 images/s (quartiles 1 to 2)"


def test_speed_runs_a_timm_model_beside_the_pruned_one():
    model = evit()
    found = tokenprune.speed(model, model.backbone, rounds=2, warmup=1)
    assert found.seconds > 0 < found.seconds_dense and found.batch == 1 and "a random image" in found.how and "2 rounds" in found.how


def test_speed_refuses_what_says_nothing():
    with pytest.raises(TokenPruneError, match="masked execution is not timed"):
        tokenprune.speed(pruned({"name": "evit"}, "remove", execution="masked"))
    with pytest.raises(TokenPruneError, match="no pruned encoder"):
        tokenprune.speed(nn.Linear(2, 2))
    with pytest.raises(TokenPruneError, match="more than an encoder; give `dense`"):
        tokenprune.speed(nn.Sequential(evit()))
    with pytest.raises(InvalidConfig, match="rounds is 0"):
        tokenprune.speed(evit(), rounds=0)


def test_kept_is_the_recorded_usage():
    model, x = pruned({"name": "ats"}, "remove"), images(3)
    with torch.no_grad(), record(model) as seen:
        model(x)
    every = tokenprune.kept(model, x)
    assert every.shape == (3, DEPTH, 8, 8) and every.dtype == torch.bool
    assert torch.equal(every.flatten(2), torch.stack([image.blocks for image in seen.images]))
    for block in (0, 2, -1):
        assert torch.equal(tokenprune.kept(model, x, block), every[:, block])
    assert torch.equal(tokenprune.kept(nn.Sequential(model), x), every)  # a module around one


@pytest.mark.parametrize("block", [DEPTH, -DEPTH - 1, 1.0, "3", True])
def test_kept_refuses_a_block_that_is_not_there(block):
    with pytest.raises(InvalidConfig, match=f"allowed: 0 to {DEPTH - 1}"):
        tokenprune.kept(evit(), images(1), block)


def test_kept_needs_a_pruned_model():
    with pytest.raises(TokenPruneError, match="make one with tokenprune.prune"):
        tokenprune.kept(timm.create_model("vit_tiny_patch16_224"), images(1))


@pytest.mark.system
def test_they_are_names_of_the_package_that_are_imported_when_used():
    assert tokenprune.cost is facts.cost and tokenprune.speed is facts.speed and tokenprune.kept is facts.kept
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tokenprune.nonsense  # noqa: B018
    code = "import sys, tokenprune; here = {'tokenprune.measure.facts', 'tokenprune.report'} & set(sys.modules); sys.exit(len(here))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
