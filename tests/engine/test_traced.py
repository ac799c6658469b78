"""Programs recorded from a model: torch.jit.trace, fvcore's counter, the older ONNX exporter, torch.compile of a copy."""

import io
import warnings

import numpy as np
import pytest
import torch

import tokenprune
from tests.helpers.pairings import each_selector_once, images, label, pruned, representatives, tiny_vit
from tokenprune.engine.policy import Site
from tokenprune.measure.macs import encoder_macs
from tokenprune.registry import get

FIXED = [pair for pair in representatives() if get("selector", pair[0]["name"]).budget == "fixed"]
_FIRST = {pair[1]: pair for pair in reversed(FIXED)}.values()  # the first of each treatment
COUNTED = [pair if pair in _FIRST else pytest.param(*pair, marks=pytest.mark.slow) for pair in FIXED]
_REMOVED = {pair[0]["name"]: pair for pair in reversed(each_selector_once()) if pair[1] == "remove"}.values()  # the first options of each
TRACED = [pair if pair in _REMOVED or pair in _FIRST else pytest.param(*pair, marks=pytest.mark.slow) for pair in each_selector_once()]
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize(("selector", "treatment"), TRACED, ids=label)
def test_a_program_traced_with_one_image_is_right_for_three(selector, treatment):
    model = pruned(selector, treatment)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        program = torch.jit.trace(model, images(1), check_trace=False)
        varies = any(s.counts_vary for s in model.selectors.values())
        assert any("computes every token" in str(w.message) for w in said) == varies
        for seed in (1, 5):
            torch.testing.assert_close(program(images(3, seed=seed)), model(images(3, seed=seed)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("selector", "treatment"), COUNTED, ids=label)
def test_fvcore_counts_what_we_count(selector, treatment):
    fvcore = pytest.importorskip("fvcore.nn")
    vit = tiny_vit(embed_dim=48)
    for block in vit.blocks:
        block.attn.fused_attn = False  # fvcore does not know the fused kernel
    model = pruned(selector, treatment, vit=vit)
    with torch.no_grad():
        counter = fvcore.FlopCountAnalysis(model, images(1)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        macs = encoder_macs(model, model.encode(images(1)), head=True)
    counted = sum(v for name, v in counter.by_operator().items() if name in ("linear", "conv", "matmul", "addmm", "bmm"))
    kind = get("selector", selector["name"])
    in_parts = any(s.site is Site.AHEAD for s in model.selectors.values())  # fvcore's hooks make a layer run whole of which a part is asked
    if kind.saves_computation and model.fusion is None and not in_parts:  # whose attention is fused
        assert counted == pytest.approx(macs.total, rel=0.02)


@pytest.mark.parametrize("name", [None, "evit", "tome", "cropr", "topk", "dynamicvit", "evo_vit", "variance"])
def test_the_older_onnx_exporter(name):
    runtime = pytest.importorskip("onnxruntime")
    model = pruned(name, "merge" if name == "tome" else "remove") if name else tokenprune.prune(tiny_vit())
    stores = name in ("evo_vit", "variance")  # the exporter fixes the batch size where traits are stored
    file, x = io.BytesIO(), images(1 if stores else 3)
    with torch.no_grad():
        batch = None if stores else {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, images(1), file, dynamo=False, input_names=["images"], output_names=["logits"], dynamic_axes=batch)
        found = runtime.InferenceSession(file.getvalue()).run(None, {"images": x.numpy()})[0]
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-4)


def test_a_compiled_copy_decides_by_its_own_schedule():
    import copy

    torch.compiler.reset()
    model = pruned("variance", "remove", {"name": "stages", "blocks": [1], "keep_rate": 0.5})
    other = copy.deepcopy(model)
    other.schedule = pruned("variance", "remove", {"name": "stages", "blocks": [1], "keep_rate": 0.25}).schedule
    with torch.no_grad():
        for each in (model, other):
            torch.testing.assert_close(torch.compile(each, backend="eager")(images(2)), each(images(2)))
