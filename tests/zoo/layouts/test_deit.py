"""Plain DeiT files: what tells their method, and A-ViT against its authors' code on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import built, filled, golden, imported, pictures
from tests.zoo.layouts.test_dynamicvit import some_state
from tokenprune.errors import CheckpointMismatch
from tokenprune.methods.selectors.shared.halting import DEPTH


def plain_state():
    """Return keys of a tiny DeiT of two blocks with the shapes that matter."""
    kept = {key: value for key, value in some_state().items() if not key.startswith("score_predictor.")}
    return kept | {"norm.weight": torch.ones(64), "blocks.11.norm1.weight": torch.ones(64)}


@pytest.mark.parametrize(("name", "file"), [("a_vit_tiny", "tiny-10-30.pth"), ("a_vit_tiny_c45", "tiny-10-45.pth")])
@pytest.mark.parametrize("execution", ["packed", "masked"])
def test_a_vits_logits_and_depths_are_the_authors(name, file, execution, tmp_path):
    numbers = golden(f"methods/dev/{name}.safetensors")
    model = built(imported(tmp_path, filled(f"methods/dev/keys_{name}.json"), file), execution)
    with torch.no_grad():
        outputs = model.encode(pictures())
        torch.testing.assert_close(model.logits(outputs), numbers["logits"], atol=1e-5, rtol=0)
    depth = outputs.state.traits[DEPTH]
    torch.testing.assert_close(depth, numbers["rho_token"], atol=5e-5, rtol=0)  # gamma is 10
    assert torch.equal(depth.ceil().long() - 1, numbers["counter_token"].long())


def test_evits_arguments_say_everything(tmp_path):
    args = {"base_keep_rate": 0.6, "fuse_token": True, "drop_loc": "(2, 5)", "model": "deit_small_patch16_shrink_base"}
    found = imported(tmp_path, plain_state(), args=args).settings
    assert found["selector"] == {"name": "evit"} and found["treatment"] == {"name": "fuse"}
    assert found["schedule"] == {"name": "stages", "keep_rate": 0.6, "of": "current", "rounding": "ceil", "blocks": [2, 5]}
    with pytest.raises(CheckpointMismatch, match="the file itself says 0.6"):
        imported(tmp_path, plain_state(), args=args, keep_rate=0.7)


def test_settings_that_the_file_does_not_say_are_asked_for_by_name(tmp_path):
    with pytest.raises(CheckpointMismatch, match="method is not given"):
        imported(tmp_path, plain_state())
    with pytest.raises(CheckpointMismatch, match=r"keep_rate is not given.*: share of.*; fuse_token is not given"):
        imported(tmp_path, plain_state(), method="evit")
    found = imported(tmp_path, plain_state(), method="evit", keep_rate=0.9, fuse_token=False).settings
    assert found["treatment"] == {"name": "remove"} and found["schedule"]["keep_rate"] == 0.9
    merged = imported(tmp_path, plain_state(), method="tome", r=13).settings
    assert merged["schedule"] == {"name": "per_block", "remove": 13, "start": 0, "align": False}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "evitt"}, "no method 'evitt'"),
        ({"method": "tome", "r": 13, "gamma": 1.0}, "gamma is no setting of method=tome"),
        ({"method": "cropr"}, "has weights of its own"),
        ({"method": "dense", "keep_rate": 0.5}, "keep_rate is no setting of method=dense"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(given, words, tmp_path):
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, plain_state(), **given)


def test_selectors_without_weights_run_as_published_with_what_is_given(tmp_path):
    found = imported(tmp_path, plain_state(), method="topk", keep_rate=0.5, blocks=[1], options={"score": "mean_query"}).settings
    assert found["selector"] == {"name": "topk", "score": "mean_query"}
    assert found["schedule"]["keep_rate"] == 0.5 and found["schedule"]["blocks"] == [1]
    assert set(imported(tmp_path, plain_state(), method="dense").settings) == {"backbone", "task"}


@pytest.mark.parametrize("method", ["evit", "tome", "topk", "ats", "kmedoids", "random", "variance", "evo_vit"])
def test_a_whole_file_loads_strictly_under_any_method_without_weights(method, tmp_path):
    given = {"evit": {"keep_rate": 0.7, "fuse_token": True}, "tome": {"r": 13}}.get(method, {})
    model = built(imported(tmp_path, filled("methods/dev/keys_a_vit_tiny.json"), method=method, **given))
    with torch.no_grad():
        assert model(pictures()[:1]).isfinite().all()
