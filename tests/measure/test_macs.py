"""MACs of built models against the papers' figures and against torch's own counter."""

from dataclasses import replace

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tokenprune
from tests.helpers.pairings import each_selector_once, images, label, pairings, pruned, sampled, tiny_vit
from tokenprune.backbones.vit import build_vit
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.registry import get
from tokenprune.runs.presets import read
from tokenprune.utils.paths import config_dir


def gmac(name="deit_small_patch16_224", size=224, head=True, cls_token=True, **pruning):
    with torch.device("cpu"):
        options = {} if cls_token else {"class_token": False, "global_pool": "avg", "dynamic_img_size": True}
        torch.manual_seed(0)
        model = tokenprune.prune(timm.create_model(name, **options).eval(), **pruning)
    size = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        return encoder_macs(model, model.encode(torch.randn(1, 3, *size)), head=head)


@pytest.mark.parametrize(("size", "expected"), [("tiny", 1.2536832), ("small", 4.598882304), ("base", 17.563828224)])
def test_dense_deit(size, expected):
    assert gmac(f"deit_{size}_patch16_224").total / 1e9 == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        ({"selector": "evit"}, 3.0293),
        ({"selector": "evit", "treatment": "remove"}, 2.9970),
        ({"selector": "dynamicvit"}, 2.9809),
        ({"selector": "evo_vit"}, 3.0334),
        ({"selector": "tome"}, 2.706),
    ],
    ids=label,
)
def test_published_settings_on_deit_small(pruning, expected):
    macs = gmac(**pruning)
    assert macs.total / 1e9 == pytest.approx(expected, abs=6e-5 if pruning["selector"] != "tome" else 5e-4)


def counted(model, x):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model.encode(x)
    return outputs, counter.get_total_flops() / 2


@pytest.mark.parametrize(("selector", "treatment"), sampled(pairings()), ids=label)
def test_analytic_agrees_with_the_counter(selector, treatment):
    model = pruned(selector, treatment, vit=tiny_vit(embed_dim=48))  # sums without products, which torch does not see, count less then
    outputs, seen = counted(model, images(1))
    if not get(
        "selector", selector["name"]
    ).saves_computation:  # what it switches off is computed all the same: its MACs are fewer than were seen
        assert encoder_macs(model, outputs).total < seen
        outputs = replace(outputs, state=outputs.state.replace(aux=()))
    assert seen == pytest.approx(encoder_macs(model, outputs).total, rel=0.01)


MERGED = [selector for selector, treatment in pairings() if treatment == "merge"]


@pytest.mark.parametrize("selector", MERGED, ids=label)
def test_merging_counts_the_similarities_that_find_its_targets(selector):
    model = pruned(selector, "merge")
    outputs, seen = counted(model, images(1))
    kind, other = get("selector", selector["name"]), pruned(selector, "remove")
    with torch.no_grad():
        batch = model.encode(images(4))
        macs, plain = encoder_macs(model, batch).selector, encoder_macs(other, other.encode(images(4))).selector
        each = [encoder_macs(model, model.encode(image)).selector for image in images(4).split(1)]
    assert macs == pytest.approx(sum(each) / 4, rel=0.01)  # squares of uneven counts, not the square of their mean
    if not (kind.merging and kind.budget == "dynamic"):  # whose counts follow what merging makes of the tokens
        assert macs == plain if kind.merging else macs > plain + 24 * 64 * 64
    if kind.count_role == "count" and kind.saves_computation:
        assert planned_macs(model, 64).total == pytest.approx(seen, rel=0.01)


def test_packed_counts_are_means_of_squares():
    model, x = pruned("svit", "preserve"), images(4)
    with torch.no_grad():
        whole = encoder_macs(model, model.encode(x))
        each = [encoder_macs(model, model.encode(x[i : i + 1])) for i in range(4)]
    assert whole.total == pytest.approx(sum(m.total for m in each) / 4)
    assert len({m.total for m in each}) > 1  # the images really differ


@pytest.mark.parametrize(("size", "dense", "svit"), [("tiny", 103.6, 52.0), ("small", 251.8, 133.0), ("base", 681.9, 381.7)])
def test_detection_size_on_the_meta_device(size, dense, svit):
    """1333 x 800 is padded to 800 x 1344: 50 x 84 = 4200 tokens, no class token (SViT Table 5's encoders, blocks only)."""
    with torch.device("meta"):
        options = {"class_token": False, "global_pool": "avg", "dynamic_img_size": True, "num_classes": 0}
        vit = timm.create_model(f"vit_{size}_patch16_224", **options).eval()
        model = tokenprune.prune(vit)
        outputs = model.encode(torch.empty(1, 3, 800, 1344))
        sparse = planned_macs(tokenprune.prune(vit, "svit"), 4200)
    assert outputs.map.shape[1] == 4200 and outputs.grid == (50, 84)
    macs = encoder_macs(model, outputs)
    assert (macs.total - macs.embedding) / 1e9 == pytest.approx(dense, abs=0.06)
    assert (sparse.total - sparse.embedding) / 1e9 == pytest.approx(svit, abs=0.06)


@pytest.mark.parametrize(("selector", "treatment"), each_selector_once(), ids=label)
def test_plan_is_what_fixed_budgets_use(selector, treatment):
    model = pruned(selector, treatment)
    with torch.no_grad():
        seen, plan = encoder_macs(model, model.encode(images(2))), planned_macs(model, 64)
    if any(s.counts_vary for s in model.selectors.values()):
        assert plan.total > 0
    else:
        assert plan == seen


def test_a_selector_that_is_not_asked_costs_nothing():
    """Stage-wise, blocks between the stages have gates that only the first part of training used."""
    schedule = {"name": "constant", "rate": 0.5, "start": 1, "span": 2}
    always, stage_wise = (pruned("svit", "reactivate", {**schedule, "stage_wise_from": share}) for share in (None, 0.5))
    assert len(always.selectors) == len(stage_wise.selectors) == 5
    with torch.no_grad():
        costs = [encoder_macs(model, model.encode(images(2))).selector for model in (always, stage_wise)]
    assert costs[1] / 3 == costs[0] / 5 == planned_macs(stage_wise, 64).selector / 3


def eva_large(size, patch, **pruning):
    """Return the planned MACs of EVA-02-L over 1024 positions, on the meta device."""
    with torch.device("meta"):
        eva = timm.create_model("eva02_large_patch14_448", img_size=size, patch_size=patch, num_classes=0).eval()
        model = tokenprune.prune(eva, **pruning)
        return planned_macs(model, 1024), model.family.blocks[0].macs(1, 1, 1, 0)


def test_eva_02_large_as_cropr_counts_it():
    """Per token 4 D^2 + 3 D 2730; Cropr prints weight layers, for segmentation with norms and a head of 150 classes a token."""
    dense, block = eva_large(448, 14)
    assert block.linear == 12_580_864 == 4 * 1024**2 + 3 * 1024 * 2730
    assert dense.linear / 1e9 == pytest.approx(310.11, abs=0.005) and dense.attention / 1e9 == pytest.approx(51.64, abs=0.005)
    plan = {"name": "per_block", "remove": 40, "start": 1, "stop": 23}
    fused, _ = eva_large(448, 14, selector="cropr", treatment="last_layer_fusion", schedule=plan)
    assert fused.linear / 1e9 == pytest.approx(182.5, abs=0.05) and fused.attention / 1e9 == pytest.approx(21.5, abs=0.05)
    segmenting, _ = eva_large(512, 16)
    head = 1024 * 1024 * 150
    assert (segmenting.linear + head) / 1e9 == pytest.approx(310.45, abs=0.005)
    assert (segmenting.linear + segmenting.norm + head) / 1e9 == pytest.approx(311.04, abs=0.01)


def of_config(name, schedule=None, treatment="last_layer_fusion"):
    """Return the planned MACs of a backbone group under Cropr, and the lengths that enter its blocks, on the meta device."""
    config = read(config_dir() / "backbone" / f"{name}.yaml")
    axes = {} if schedule is None else {"selector": "cropr", "treatment": treatment, "schedule": schedule}
    with torch.device("meta"):
        model = tokenprune.prune(build_vit(config), **axes).eval()
    N = (config["img_size"] // config["patch_size"]) ** 2
    macs = planned_macs(model, N)
    return macs, [round(share * N) + model.prefix_tokens for share in macs.kept_per_block]


def every(remove, **more):
    return {"name": "per_block", "remove": remove, **more}


STAGES = {"name": "explicit", "keep": {6: 145, 12: 95, 18: 45}}  # R = 50 after blocks 6, 12 and 18, one more at first


@pytest.mark.parametrize(
    ("backbone", "schedule", "treatment", "linear", "total", "lengths"),
    [
        ("vit_large", None, None, 59.65, 61.55, [197] * 24),
        ("vit_large", every(8), "last_layer_fusion", 33.90, 34.67, [197, *range(188, 19, -8), 197]),
        ("vit_large", every(8, align=False), "last_layer_fusion", 34.18, 34.95, [197, *range(189, 20, -8), 197]),  # the paper's 34.2
        ("vit_large", every(8), "remove", 31.57, 32.26, [197, *range(188, 11, -8)]),
        ("vit_large", STAGES, "remove", 36.77, 37.65, [197] * 6 + [146] * 6 + [96] * 6 + [46] * 6),
        ("vit_base", None, None, 16.85, 17.56, [197] * 12),
        ("vit_base", every(16), "last_layer_fusion", 10.55, 10.88, [197, *range(180, 35, -16), 197]),
        ("vit_huge", None, None, 161.88, 167.30, [257] * 32),
        ("vit_huge", every(8), "last_layer_fusion", 88.16, 90.20, [257, *range(248, 15, -8), 257]),
        ("eva02_large", None, None, 310.11, 361.75, [1025] * 24),
        ("eva02_large", every(40), "last_layer_fusion", 182.51, 204.06, [1025, *range(984, 143, -40), 1025]),
        ("eva02_large", {"name": "explicit", "keep": {3: 199}}, "remove", 92.14, 100.32, [1025] * 3 + [200] * 21),
    ],
    ids=label,
)
def test_croprs_classifiers_on_the_meta_device(backbone, schedule, treatment, linear, total, lengths):
    macs, seen = of_config(backbone, schedule, treatment)
    assert seen == lengths
    assert (macs.linear / 1e9, macs.total / 1e9) == (pytest.approx(linear, abs=0.006), pytest.approx(total, abs=0.011))


def test_what_cropr_saves_of_eva_02():
    """41 % of linear MACs, as printed; 80 % of the tokens after the third block 70 %, where 76 % are printed (77: after the first)."""
    dense, fused, third, first = (
        of_config("eva02_large", schedule, treatment)[0].linear
        for schedule, treatment in (
            (None, None), (every(40), "last_layer_fusion"), *(({"name": "explicit", "keep": {k: 199}}, "remove") for k in (3, 1)),
        )
    )  # fmt: skip
    assert (1 - fused / dense, 1 - third / dense, 1 - first / dense) == pytest.approx((0.411, 0.703, 0.770), abs=5e-4)
