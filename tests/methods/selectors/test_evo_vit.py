"""Evo-ViT's stage-wise mode: chosen at the start of each stage, at rest until its end."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenprune
from tests.helpers.pairings import images
from tokenprune.measure.macs import encoder_macs, planned_macs


def model(stage_wise, **options):
    """A ViT as timm initialises it: its attention is nearly flat, so that a chosen token attracts more afterwards, not less."""
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 12, "num_heads": 3, "num_classes": 5}
    schedule = {"name": "constant", "rate": 0.5, "stage_wise_from": 0.0 if stage_wise else None, **options}
    return tokenprune.prune(VisionTransformer(**size).eval(), "evo_vit", "reactivate", schedule)


def test_both_modes_agree_where_a_choice_confirms_itself():
    x = images(3)
    with torch.no_grad():
        layer_wise, stage_wise = model(False), model(True)
        one, other = layer_wise.encode(x), stage_wise.encode(x)
        torch.testing.assert_close(other.map, one.map, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(stage_wise(x), layer_wise(x), atol=1e-5, rtol=1e-5)
    assert list(layer_wise.budgets(64)) == list(range(4, 12)) and list(stage_wise.budgets(64)) == [4, 8]


def test_within_a_stage_pruned_tokens_keep_the_bits_that_they_entered_with():
    pruned, x = model(True), images(3)
    with torch.no_grad():
        state, _ = pruned.run(pruned.start(x), 0, 4)
        for first in (4, 8):
            entry, chosen = state.dense(), None
            for block in range(first, first + 4):
                state, _ = pruned.run(state, block, block + 1)
                used = state.index.sort(1).values
                assert used.shape == (3, 32) and (chosen is None or torch.equal(used, chosen))
                chosen = used
                rest = torch.ones(3, 64, dtype=torch.bool).scatter(1, used, False)
                assert torch.equal(state.dense()[rest], entry[rest]) and not torch.equal(state.dense()[~rest], entry[~rest])


def test_the_average_goes_on_in_blocks_without_a_choice():
    """The second stage is chosen by g of the blocks before it, stale where pruned."""
    pruned, x = model(True), images(2)
    with torch.no_grad():
        before, _ = pruned.run(pruned.start(x), 0, 5)
        after, _ = pruned.run(before, 5, 6)
    old, new = (state.traits["running_attention"][:, 1:] for state in (before, after))
    moved = torch.zeros(2, 64, dtype=torch.bool).scatter(1, after.index, True)
    assert torch.equal(old[~moved], new[~moved]) and (old[moved] != new[moved]).all()


def test_training_changes_mode_on_the_way():
    pruned = model(True).train()
    pruned.schedule = tokenprune.registry.build("schedule", {"name": "constant", "rate": 0.5, "stage_wise_from": 0.5})
    for progress, blocks in ((0.0, 8), (0.49, 8), (0.5, 2), (1.0, 2)):
        pruned.progress = progress
        assert len(pruned.budgets(64)) == blocks


@pytest.mark.parametrize("stage_wise", [False, True])
def test_both_modes_cost_the_same(stage_wise):
    pruned = model(stage_wise)
    with torch.no_grad():
        macs = encoder_macs(pruned, pruned.encode(images(2)))
    assert macs == planned_macs(pruned, 64) and macs.kept_per_block == (1.0,) * 4 + (0.5,) * 8
