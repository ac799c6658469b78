"""Cropr's own files against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import filled, golden, imported, pictures
from tests.zoo.layouts.test_mae import tiny
from tokenprune.errors import CheckpointMismatch
from tokenprune.zoo.load import built

NAMES = {"cropr_cls_s": "last_layer_fusion", "cropr_cls_s_nollf": "remove"}


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_kept_tokens_are_the_authors(name, tmp_path):
    """The first router drops one token more; Last Layer Fusion and the pooling are told by the keys."""
    numbers = golden(f"methods/dev/{name}.safetensors")
    found = imported(tmp_path, filled(f"methods/dev/keys_{name}.json"), args={"cropr_pruning_rate": 8, "num_heads": 6})
    model, entering = built(found, name), {}
    model.watch = lambda block, state: entering.update({block: state.index})
    with torch.no_grad():
        logits = model(pictures())
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    blocks = [int(key.removeprefix("kept_after_block")) for key in numbers if key.startswith("kept_after_block")]
    assert sorted(blocks) == list(range(10 if found.settings["treatment"]["name"] == "last_layer_fusion" else 11))
    for block in blocks:
        kept = numbers[f"kept_after_block{block}"].long().sort(1).values
        assert torch.equal(entering[block + 1].sort(1).values, kept[:, 1:] - 1)  # theirs count the class token, which always stays
    assert found.settings["treatment"]["name"] == NAMES[name] and not found.left_out


def routed(routers, depth=4, **more):
    """Return the keys of a tiny model with so many routers."""
    blocks = {f"blocks.{i}.attn.qkv.weight": torch.zeros(192, 64) for i in range(depth)}
    return {**tiny(), **blocks, **{f"cropr.{i}.cross_attn.queries": torch.zeros(1, 1, 64) for i in range(routers)}, **more}


def test_auxiliary_heads_come_along_for_further_training(tmp_path):
    found = imported(tmp_path, routed(2, **{"cropr.1.head.norm.weight": torch.ones(64)}), remove=1)
    assert "selectors.2.auxiliary.head.0.weight" in found.state and found.state["selectors.1.query"].shape == (1, 64)
    assert found.settings["selector"] == {"name": "cropr", "mlp": False} and found.settings["losses"] == {"auxiliary": {}}


@pytest.mark.parametrize(
    ("state", "given", "words"),
    [
        (routed(2), {}, "remove is not given"),
        (routed(1), {"remove": 1}, "1 routers; allowed for 4 blocks: 2 with Last Layer Fusion, 3 without"),
        (routed(2, **{"cropr.0.cross_attn.k.weight": torch.zeros(64, 64)}), {"remove": 1}, "Table 4a.*plain products"),
    ],
    ids=["rate", "routers", "projections"],
)
def test_other_files_are_refused_by_reason(state, given, words, tmp_path):
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, state, **given)
