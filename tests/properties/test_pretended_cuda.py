"""Every legal pairing on a CUDA device that is pretended: no two devices in one operation, no type that nobody chose, no host that waits.

A pass of fixed counts asks the device nothing, one of counts that vary once a decision, and masked training nothing.
"""

import pytest
import torch

from tests.helpers.fake_cuda import fake_cuda, on_cuda
from tests.helpers.pairings import SIDE, each_selector_once, images, label, pairings, pruned, representatives
from tests.helpers.pretended_cuda import CUDA, OnCuda, moved, pretended_cuda

CASES = [("eval", "fp32"), ("eval", "fp16"), ("train", "fp32"), ("train", "fp16")]
FAKE = [(*pair, *CASES[number % len(CASES)]) for number, pair in enumerate(representatives())]


def expected_waits(model) -> list[str]:
    """Return what a pass may ask: once a decision where images may keep different numbers and dropped tokens are gone."""
    selectors = list(model.selectors.values())
    masked = model.training and any(s.gated for s in selectors)
    return [] if masked or not any(s.counts_vary for s in selectors) else ["tolist"] * len(model.budgets(64))


def one_pass(model, x, mode, precision):
    """Return the outputs of a pass, its logits and its losses; check devices and types of everything on the way."""
    train, seen = mode == "train", []
    model.watch = lambda block, state: seen.append(state)
    with torch.set_grad_enabled(train), torch.autocast("cuda", torch.float16, enabled=train and precision == "fp16"):
        outputs = model.encode(x)
        logits, losses = model.logits(outputs), model.losses(outputs)
    model.watch = None
    assert {t.device for t in (outputs.map, outputs.prefix, outputs.present, logits, *losses.values())} == {CUDA}
    assert outputs.prefix.dtype == outputs.map.dtype == x.dtype
    assert logits.dtype == (torch.float16 if precision == "fp16" else torch.float32)
    for state in seen:
        values = [state.tokens, state.prefix, *([] if state.canvas is None else [state.canvas])]
        assert {t.dtype for t in values} == {x.dtype} and {t.device for t in (*values, state.live, state.index)} == {CUDA}
    return outputs, logits, losses


def matrix():
    """Return every pairing in every case; one case of each selector and of each way through the engine is quick, others are slow."""
    found, often = [], each_selector_once()
    for number, pair in enumerate(pairings()):
        for case in CASES:
            quick = pair in often and case == CASES[number % len(CASES)]
            name = "-".join([*map(str, map(label, pair)), *case])
            found.append(pytest.param(*pair, *case, id=name, marks=[] if quick else [pytest.mark.slow]))
    return found


@pytest.mark.parametrize(("selector", "treatment", "mode", "precision"), matrix())
def test_every_pairing_on_a_pretended_device(selector, treatment, mode, precision):
    model = pruned(selector, treatment, losses={"ratio": {"weight": 1.0}}).train(mode == "train")
    weights = torch.float16 if precision == "fp16" and mode == "eval" else torch.float32
    with torch.no_grad():
        wanted = model(images(3)) if (mode, precision) == ("eval", "fp32") else None
    with pretended_cuda() as waits:
        moved(model, weights)
        _, logits, _ = one_pass(model, OnCuda(images(3).to(weights)), mode, precision)
    assert waits == expected_waits(model)
    if wanted is not None:
        torch.testing.assert_close(logits.held, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "treatment", "mode", "precision"), FAKE, ids=label)
def test_each_way_through_the_engine_on_fake_tensors(selector, treatment, mode, precision):
    """The same on torch's own fake tensors, which know more rules about types and devices, and no numbers."""
    model = pruned(selector, treatment, losses={"ratio": {"weight": 1.0}}).train(mode == "train")
    weights = torch.float16 if precision == "fp16" and mode == "eval" else torch.float32
    with fake_cuda() as waits:
        on_cuda(model, weights)
        one_pass(model, torch.empty(3, 3, SIDE, SIDE, dtype=weights, device=CUDA), mode, precision)
    assert waits == expected_waits(model)
