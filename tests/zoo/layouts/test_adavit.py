"""AdaViT's file against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import built, filled, golden, imported, pictures
from tokenprune.errors import CheckpointMismatch

KEYS = "methods/dev/keys_adavit_deit_s.json"


@pytest.mark.parametrize("execution", ["packed", "masked"])
def test_policies_and_logits_are_the_authors(execution, tmp_path):
    numbers = golden("methods/dev/adavit_deit_s.safetensors")
    model, tokens = built(imported(tmp_path, filled(KEYS)), execution), {}
    model.watch = lambda block, s: tokens.update({block: torch.zeros(4, 196, dtype=torch.bool).scatter(1, s.index.clamp(min=0), s.live)})
    with torch.no_grad():
        outputs = model.encode(pictures())
        logits = model.logits(outputs)
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    for block in range(12):
        assert torch.equal(tokens[block], numbers["token_select"][:, block, 1:].bool()), block
    branches = {block: branch for name, block, branch in outputs.aux if name == "branch"}
    assert list(branches) == list(range(1, 12))
    for block, branch in branches.items():
        assert torch.equal(branch.heads, numbers["head_select"][:, block - 1].float())
        assert torch.equal(branch.sublayers, numbers["layer_select"][:, block - 1].float())


def test_queries_keys_and_values_in_one_layer_are_read_too(tmp_path):
    state = filled(KEYS)
    together = {key: value for key, value in state.items() if not any(f".attn.{part}." in key for part in ("query", "key", "value"))}
    for number in range(12):
        for kind in ("weight", "bias"):
            parts = [state[f"blocks.{number}.attn.{part}.{kind}"] for part in ("query", "key", "value")]
            together[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
    apart, one = imported(tmp_path, state), imported(tmp_path, together)
    assert apart.state.keys() == one.state.keys() and all(torch.equal(apart.state[key], one.state[key]) for key in one.state)


def test_files_that_lack_a_policy_or_a_key_are_refused(tmp_path):
    state = {"blocks.0.attn.token_select.mlp_head.weight": torch.zeros(1, 4)}
    with pytest.raises(CheckpointMismatch, match="T2T-ViT"):
        imported(tmp_path, state)
    with pytest.raises(CheckpointMismatch, match=r"blocks\.0\.attn\.key\.weight, blocks\.0\.attn\.value\.weight is missing"):
        imported(tmp_path, state | {"blocks.0.attn.query.weight": torch.zeros(4, 4)})
    whole = {key: value for key, value in filled(KEYS).items() if "blocks.5.layer_select" not in key}
    with pytest.raises(CheckpointMismatch, match=r"layer_select: \[1, 2, 3, 4, 6"):
        imported(tmp_path, whole)
