"""How speed is taken: in turn, medians, ratios within a pass, warm-up, precision. The timer is replaced, so nothing here is a race."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers.pairings import images, tiny_vit
from tokenprune import prune
from tokenprune.measure import speed
from tokenprune.measure.speed import SpeedPlan, seconds_alone, seconds_per_image

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch):
    """Calls in the order in which they were timed; each kind takes 1 2 3 ... of its unit."""
    seen: list[str] = []
    units = {"pruned": 1.0, "dense": 2.0, "whole": 10.0, "backbone": 3.0}

    def timer(call: partial) -> float:
        call()
        owner = getattr(call.func, "__self__", None)
        name = call.func.__name__ if owner is None else "dense" if not owner.selectors else "pruned"
        seen.append(name)
        return units[name] * seen.count(name)

    monkeypatch.setattr(speed, "_thread_seconds", timer)
    return seen


@pytest.fixture
def pruned():
    return prune(tiny_vit(), selector="topk", schedule={"name": "explicit", "keep": {1: 5}}).eval()


def test_everything_is_timed_in_turn_and_the_medians_are_returned(timed, pruned):
    passed: list[str] = []

    def whole(record):
        passed.append(record)

    def backbone(image):
        return image.sum()

    inputs = [(images(1), "first"), (images(1), "second")]
    found = seconds_per_image(pruned, whole, inputs, CPU, backbone, SpeedPlan(warmup=2, repeats=3))
    assert timed == ["pruned", "dense", "whole", "backbone"] * 6
    assert passed == ["first"] * 5 + ["second"] * 3  # two to warm up
    assert [found[f"seconds_{name}"] for name in ("encoder", "backbone", "total")] == [3.5, 10.5, 35.0]
    assert found["speedup_encoder"] == 2.0
    assert found["seconds_encoder_quartiles"] == [2.25, 4.75] and found["seconds_total_quartiles"] == [22.5, 47.5]
    assert found["speedup_encoder_quartiles"] == [2.0, 2.0]
    assert found["memory_encoder_mib"] > 0 and "fused attention" in found["seconds_note"]
    assert found["seconds_note"].endswith("float32, batch 1, median of 2 images x 3 passes after 2 to warm up, dense and pruned in turn")


def test_without_a_backbone_it_has_no_time(timed, pruned):
    def whole(record):
        return None

    found = seconds_per_image(pruned, whole, [(images(1), images(1))], CPU)
    assert found["seconds_backbone"] is None and found["seconds_encoder"] == 1 and timed == ["pruned", "dense", "whole"]


def test_without_images_nothing_is_timed_and_the_note_says_so(pruned):
    cpu = torch.device("cpu")
    found, alone = seconds_per_image(pruned, pruned, [], cpu), seconds_alone(pruned, [], cpu)
    note = "not timed: no images were asked for (speed_images=0)"
    assert found.pop("seconds_note") == note and set(found.values()) == {None} and "speedup_encoder" in found
    assert alone == {"seconds_total": None, "seconds_note": note}


def test_masked_execution_is_not_timed(pruned):
    pruned.execution = "masked"
    found = seconds_per_image(pruned, pruned, [(images(1), images(1))], CPU)
    assert set(found.values()) == {None, "masked execution is not timed"} and len(found) == 5


@pytest.mark.parametrize("dtype", speed.DTYPES)
def test_precision_is_that_of_the_plan(pruned, dtype):
    seen = []

    def whole(record):
        seen.append(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype)

    note = seconds_per_image(pruned, whole, [(images(1), None)], CPU, plan=SpeedPlan(dtype=dtype))["seconds_note"]
    assert set(seen) == {getattr(torch, dtype)} and dtype in note


def test_the_timers_count_the_work_of_the_call():
    small, large = (speed._thread_seconds(partial(torch.linalg.svd, torch.ones(n, n) + torch.eye(n))) for n in (8, 400))
    assert 0 < small < large


def test_the_kernel_of_attention_is_named(pruned):
    assert speed.attention_kernel(pruned) == "fused attention"
    pruned.backbone.blocks[0].attn.fused_attn = False
    assert speed.attention_kernel(pruned) == "mixed attention"
    for block in pruned.backbone.blocks:
        block.attn.fused_attn = False
    assert speed.attention_kernel(pruned) == "explicit attention"


def test_quartiles_are_those_of_numpy():
    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    assert speed.quartiles(values) == np.quantile(values, [0.25, 0.75]).tolist() and speed.quartiles([2.0]) == [2.0, 2.0]
