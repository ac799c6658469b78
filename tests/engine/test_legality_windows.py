"""What cannot be run in windows is refused with a reason, before anything runs."""

import pytest
import torch

from tests.engine.blocks.test_windowed import model_of
from tokenprune import prune
from tokenprune.backbones.vit import build_vit
from tokenprune.errors import IncompatiblePairing, InvalidConfig, InvalidSchedule, TokenPruneError
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate
from tokenprune.tasks.encoder import positions

PLAN = {"name": "window_squares", "blocks": [1], "step": 2}
EVA = {"model": "eva02_large_patch14_448", "repatch": True, "patch_size": 16, "img_size": 1536, "class_token": False,
       "windows": {"size": 16, "global_blocks": [2, 5, 8, 11, 14, 17, 20, 23]}}  # fmt: skip
VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "class_token": False}


def large(selector=None, schedule="window_squares"):
    with torch.device("meta"):
        options = () if selector is None else (selector, "last_layer_fusion", schedule)
        return prune(build_vit(EVA), *options).eval()


def test_eva02_large_costs_what_the_paper_says():
    """Cropr section 4.3: 2790 and 1273 GFLOPs, which are MACs of layers; attention and tokens a block by arithmetic."""
    dense, cropr = (planned_macs(model, 9216) for model in (large(), large("cropr")))
    assert [round(m.linear / 1e9, 2) for m in (dense, cropr)] == [2789.93, 1272.98]
    assert [round(m.attention / 1e9, 1) for m in (dense, cropr)] == [1468.9, 516.6]
    tokens = [round(share * 9216) for share in cropr.kept_per_block]
    assert tokens == [9216] * 5 + [6400] * 3 + [4096] * 3 + [2304] * 3 + [1024] * 6 + [256] * 3 + [9216] and sum(tokens) == 100608


def test_the_column_mean_pays_for_windows_only():
    """Before blocks 5 ... 20 lie windowed blocks: each of their tokens has 256 keys."""
    found = planned_macs(large({"name": "attn_topk", "score": "column_mean"}), 9216).selector
    assert found == sum(tokens * 256 * 1024 for tokens in (9216, 6400, 4096, 2304, 1024))


def test_measured_is_planned():
    model = prune(model_of("eva02_base_patch14_224", blocks=(1,)), "random", "last_layer_fusion", PLAN)
    with torch.no_grad():
        measured = encoder_macs(model, model.encode(torch.randn(2, 3, 64, 64)))
    assert measured == planned_macs(model, 64)
    attention = 2 * 48 * (64 * 4 + 36 * 36 + 64 * 4)
    assert measured.attention == attention


def refusal(selector, treatment="last_layer_fusion", execution="auto", plan=PLAN, blocks=(1,), **options):
    with pytest.raises((IncompatiblePairing, InvalidSchedule)) as caught:
        prune(model_of("vit_tiny_patch16_224", blocks=blocks), selector, treatment, plan, execution=execution, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("selector", "treatment", "reason"),
    [
        ("svit", "preserve", "keeps another number of tokens in each image"),
        ("dynamicvit", "preserve", "keeps another number of tokens in each image"),
        ({"name": "topk", "score": "mean_query"}, "preserve", "decides inside a block"),
        ("tome", "merge", "merged and mixed tokens"),
        ("patch_merger", "remove", "merged and mixed tokens"),
        ("attn_topk", "last_layer_fusion", "reads a class token"),
        ("random", "fuse", "treatment 'fuse' x windows"),
    ],
)
def test_pairings_without_a_square_are_refused(selector, treatment, reason):
    said = refusal(selector, treatment, cls="random")
    assert reason in said and "x windows" in said


@pytest.mark.parametrize(("change", "match"), [("method=svit", "keeps another number"), ("execution=packed", "auto, gathered"),
                                               ("schedule=stages", "no square of whole windows")])  # fmt: skip
def test_a_run_is_refused_before_weights_are_read(change, match):
    run = [
        "+experiment=cropr_table3_detection",
        "+rows/cropr_table3_detection=01_random",
        "scale=smoke",
        "+backbone.pretrained=missing.pth",
        change,
    ]
    with pytest.raises(TokenPruneError, match=match):
        validate(resolve(compose(run)), files=False)


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_executions_that_leave_gaps_are_refused(execution):
    assert "allowed there: auto, gathered" in refusal("random", execution=execution)
    with pytest.raises(IncompatiblePairing, match="allowed there: auto, gathered"):
        prune(model_of("vit_tiny_patch16_224"), execution=execution)


def test_counts_matter_only_where_a_windowed_block_follows():
    said = refusal("random", "remove", plan={"name": "explicit", "keep": {1: 30}})
    assert said.startswith("block 2: 30 tokens are no square of whole windows of 2 x 2; allowed near it: 16 or 36")
    prune(model_of("vit_tiny_patch16_224", blocks=(1, 2)), "random", "remove", {"name": "explicit", "keep": {1: 30}})
    last = {"name": "explicit", "keep": {1: 30}}
    prune(model_of("vit_tiny_patch16_224", blocks=(1,)), "random", "last_layer_fusion", last)  # all are back in block 2
    prune(model_of("vit_tiny_patch16_224", blocks=()), "random", "reactivate", {"name": "explicit", "keep": {1: 36, 2: 16}})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"windows": {"size": 3}}, "size is 3, which does not divide the grid of 8 x 8; allowed: divisors of 8"),
        ({"windows": {"size": 0}}, "size is 0; allowed: 1 and more"),
        ({"windows": {"size": 2, "global_blocks": [1, 4, 9]}}, "global_blocks has 4, 9; allowed: 0 to 3"),
        ({"windows": {"size": 2}, "class_token": True}, "1 prefix token.*class_token=false"),
        ({"windows": {"size": 2, "rope": "none"}}, "rope is 'none'; allowed: original, folded"),
        ({"windows": {"size": 2}, "adapter": {}}, "windows and backbone.adapter are both set"),
        ({"windows": {"site": 2}}, "backbone.windows.site is not a setting"),
    ],
)
def test_windows_that_do_not_fit_a_model_are_refused(changes, match):
    with pytest.raises(InvalidConfig, match=match):
        build_vit({**VIT, **changes})


def test_a_windowed_model_has_no_final_norm_without_a_head():
    bare, headed = (build_vit({**VIT, "windows": {"size": 2}}, classes) for classes in (0, 5))
    assert not [name for name, _ in bare.named_parameters() if "norm" in name and "blocks" not in name]
    assert [name for name, _ in headed.named_parameters() if "norm" in name and "blocks" not in name]
    assert prune(headed)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_positions_are_those_of_the_padded_square():
    data = {"name": "coco", "short_side": 40, "long_side": 60}
    assert positions({"backbone": {**VIT, "windows": {"size": 2}}, "data": data}) == 64
    assert positions({"backbone": VIT, "data": data}) == 5 * 8
