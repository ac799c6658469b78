"""Evo-ViT's files against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import built, filled, golden, imported, pictures
from tests.zoo.layouts.test_dynamicvit import kept_in
from tokenprune.errors import CheckpointMismatch


@pytest.mark.parametrize(("name", "given"), [("evo_vit_s", {}), ("evo_vit_s_layer", {"stage_wise": False})])
def test_logits_and_kept_tokens_are_the_authors(name, given, tmp_path):
    numbers = golden(f"methods/dev/{name}.safetensors")
    found = imported(tmp_path, filled(f"methods/dev/keys_{name}.json"), **given)
    kept, logits = kept_in(built(found), pictures())
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    orders = {int(key.removeprefix("order_patch_block")): order for key, order in numbers.items() if "order" in key}
    assert len(orders) == (8 if given else 2)
    for block, order in orders.items():
        assert torch.equal(kept[block], order[:, :98].long().sort(1).values)
    assert set(found.left_out) == {"head_cls.", "norm_cls."}


def test_files_that_lack_a_part_are_refused(tmp_path):
    state = {f"{part}.0.{own}.weight": torch.zeros(2, 2) for part, own in (("qks", "qk"), ("vs", "v"))}
    with pytest.raises(CheckpointMismatch, match="LeViT"):
        imported(tmp_path, state)
    with pytest.raises(CheckpointMismatch, match=r"vs\.1\.v\.weight is missing"):
        imported(tmp_path, state | {"patch_embed.proj.weight": torch.zeros(2, 3, 4, 4), "qks.1.qk.weight": torch.zeros(2, 2)})
