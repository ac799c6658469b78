"""Packed passes of fixed sizes: right where the rows fit, noticed where they do not, and nothing is asked of the device in between."""

import pytest
import torch

from tests.helpers.pairings import encode_checked, images, label, pairings, pruned
from tests.helpers.pretended_cuda import OnCuda, moved, pretended_cuda
from tokenprune.measure.replayed import Replayed, rung
from tokenprune.registry import get

VARYING = [pair for pair in pairings() if get("selector", pair[0]["name"]).budget == "dynamic"]


def used(model, x):
    """Return the rows of the batch after each decision, the smallest capacities that are enough."""
    outputs = model.encode(x)
    return {number: int(outputs.usage[number].fed.sum()) for number in model.budgets(64)}


def overflows(outputs):
    return [bool(flag) for name, _, flag in outputs.aux if name == "overflow"]


@pytest.mark.parametrize(("selector", "treatment"), VARYING, ids=label)
def test_capped_passes_are_packed_passes(selector, treatment):
    model, x = pruned(selector, treatment), images(3)
    with torch.no_grad():
        wanted = model.encode(x)
        logits, least, varies = model.logits(wanted), used(model, x), any(s.counts_vary for s in model.selectors.values())
        for capacities in (least, {number: rows + 7 for number, rows in least.items()}, dict.fromkeys(least, 10_000)):
            model.capacities = capacities
            found = encode_checked(model, x)
            assert overflows(found) == [False] * len(least) * varies
            assert torch.equal(found.present, wanted.present)
            torch.testing.assert_close(found.map, wanted.map, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model.logits(found), logits, atol=1e-5, rtol=1e-5)
            for a, b in zip(wanted.usage, found.usage, strict=True):
                assert torch.equal(a.attended, b.attended) and torch.equal(a.rows, b.rows) and torch.equal(a.fed, b.fed)
        model.capacities = {number: rows - 1 for number, rows in least.items()}
        assert any(overflows(model.encode(x))) == varies  # a fixed number of tokens needs no capacity


@pytest.mark.parametrize(
    ("selector", "treatment", "dtype"),
    [(*pair, torch.bfloat16) for pair in VARYING] + [(*pair, torch.float32) for pair in VARYING if pair[1] == "reactivate"],
    ids=lambda value: label(value) or str(value),
)
def test_capped_passes_ask_the_device_nothing(selector, treatment, dtype):
    """In half precision the attention of the pretended device is `varlen_attn`, in float32 it is padded."""
    model, x = pruned(selector, treatment), images(3)
    with torch.no_grad():
        capacities = dict.fromkeys(model.budgets(64), 100)
        with pretended_cuda() as waits:
            moved(model, dtype)
            model.capacities = capacities
            outputs = model.encode(OnCuda(x.to(dtype)))
            logits = model.logits(outputs)
    assert waits == [] and logits.held.dtype == dtype


def test_rungs_leave_some_room_and_are_few():
    assert [rung(rows, 160) for rows in (1, 10, 50, 91, 100, 146, 160)] == [10, 20, 60, 110, 110, 160, 160]
    assert len({rung(rows, 3 * 65) for rows in range(1, 196)}) <= 16


def test_a_replayed_model_is_captured_once_a_rung_and_runs_again_what_does_not_fit():
    model = pruned({"name": "svit"}, "reactivate").eval()
    captures, replays = [], []

    def capture(run, example):
        captures.append(example.shape)

        def replay(x):
            replays.append(len(x))
            return run(x)

        return replay

    fast, x = Replayed(model, capture), images(3)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x)) and captures == [] and replays == []  # the first pass finds the sizes
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast(x.flip(0)), model(x.flip(0)), atol=1e-5, rtol=1e-5)
        assert len(captures) == 1 and len(replays) == 2 and fast.missed == 0
        for number in model.budgets(64):
            model.selectors[str(number)].gate.last.bias[0] += 50.0  # now nearly everything stays, and no longer fits
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
        assert fast.missed == 1 and len(captures) == 1
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
        assert fast.missed == 1 and len(captures) == 2
        torch.testing.assert_close(fast(x[:2]), model(x[:2]), atol=1e-5, rtol=1e-5)  # another batch size: its own sizes
    assert model.capacities is None
