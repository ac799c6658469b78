"""EVA-02-L/16 at 512 px with Segmenter's head, as Cropr segments ADE20k: MACs and parameters that the paper and its logs print."""

import pytest
import torch

from tests.helpers.pairings import images, tiny_vit
from tokenprune import prune
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.engine.state import TokenState
from tokenprune.measure.macs import encoder_macs, planned_macs
from tokenprune.methods.selectors.cropr import CroprRouter
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.encoder import build_pruned
from tokenprune.tasks.segmentation.model import Segmenter

POSITIONS, CLASSES = 1024, 150
CROPR = ("+experiment=cropr_fig5_segmentation", "+rows/cropr_fig5_segmentation=04_cropr")
DENSE = ("+experiment=cropr_fig5_segmentation", "+rows/cropr_fig5_segmentation=00_dense")


@pytest.fixture(scope="module")
def models():
    """The models of the experiment at scale=paper, on the meta device."""
    with torch.device("meta"):
        return {name: Segmenter(build_pruned(resolve(compose([*row, "scale=paper"])), CLASSES)).eval()
                for name, row in (("dense", DENSE), ("cropr", CROPR))}  # fmt: skip


def gmac(model, *parts):
    macs = planned_macs(model.deploy().pruned, POSITIONS)
    return (sum(getattr(macs, part) for part in parts) + model.head_macs(POSITIONS)) / 1e9


@pytest.mark.system
def test_gflops_of_the_paper_are_macs_of_weight_layers_and_norms_with_the_head_at_every_patch(models):
    assert gmac(models["dense"], "linear") == pytest.approx(310.45, abs=0.005)
    assert gmac(models["cropr"], "linear") == pytest.approx(182.86, abs=0.005)
    last = 5 * 1024 * 1025 / 1e9  # the norm before the head, which these figures leave out: 0.005 of 311 and 183
    assert gmac(models["dense"], "linear", "norm") - last == pytest.approx(311.04, abs=0.005)
    assert gmac(models["cropr"], "linear", "norm") - last == pytest.approx(183.20, abs=0.005)
    assert [round(gmac(models[name], "linear", "norm", "selector")) for name in ("dense", "cropr")] == [311, 183], "as printed"
    assert models["dense"].head_macs(POSITIONS) == 1024 * 1024 * 150


def test_parameters_of_the_released_logs(models):
    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(models["dense"]) == 304_393_302 and size(models["cropr"]) == 515_596_602
    assert len(models["cropr"].pruned.selectors) == 22 and size(models["cropr"].deploy()) == 304_393_302 + 22 * 1024


def test_lengths_that_enter_the_blocks(models):
    budgets = models["cropr"].pruned.budgets(POSITIONS)
    assert [1025] + [1 + budgets[b].keep for b in range(1, 23)] + [1025] == [1025, *(1024 - 40 * i for i in range(1, 23)), 1025]
    assert 1 - (1 + budgets[22].keep) / 1024 == pytest.approx(0.859, abs=5e-4), "the TPR of 86 % that section 4.2 prints"


def test_one_query_costs_a_thousandth_of_all(models):
    """Section 3.4: 1024 queries over 22 modules are 13.9 GMAC (13.93 where the class token is scored too), their sum is 0.014."""
    full, fused = (planned_macs(m, POSITIONS).selector / 1e9 for m in (models["cropr"].pruned, models["cropr"].pruned.deploy()))
    assert full + 22 * 1024 * 1024 / 1e9 == pytest.approx(13.93, abs=0.005) and fused == pytest.approx(0.0136, abs=5e-5)
    assert round(full, 1) == 13.9 and full / fused == pytest.approx(1024)


@torch.no_grad()
def test_the_summed_query_scores_as_all_do_in_training():
    """Eq. 6 in single precision, at the paper's number of queries and width."""
    torch.manual_seed(0)
    router = CroprRouter(Context(1024, 16, 1, Budget(1, 40, 64, 40 / 64), 24, 1, CLASSES, 1024), queries="patches").train()
    state = TokenState.start(torch.randn(2, 1, 1024), torch.randn(2, 64, 1024), (8, 8))
    budget = Budget(1, 40, 64, 40 / 64)
    learned = router.score(Observation(state, 1), budget)
    deployed = router.deploy().eval().score(Observation(state, 1), budget)
    torch.testing.assert_close(deployed.score / learned.score.std(), learned.score / learned.score.std(), atol=1e-5, rtol=1e-5)
    assert torch.equal(deployed.keep, learned.keep) and learned.notes["auxiliary"].shape == (2, 1024, CLASSES)


@torch.no_grad()
def test_plans_are_what_runs():
    """At small size: the planned linear MACs are those counted on the tokens that really ran."""
    model = prune(tiny_vit(num_classes=5), {"name": "cropr", "queries": "patches"}, "last_layer_fusion", {"name": "per_block", "remove": 9})
    counted = encoder_macs(model.deploy(), model.deploy().encode(images(2)))
    assert planned_macs(model.deploy(), 64) == counted


def test_the_curriculum_of_the_released_logs():
    """R over 64 epochs: truncated, linear from 0, 40 from the second half on; the first module always drops one more."""
    first = [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 18, 19, 20, 21, 23, 24, 25, 27, 28, 29, 30, 32, 33, 34, 36, 37, 38, 40]
    logs = first + [40] * 32
    config = resolve(compose([*CROPR, "scale=paper"]))
    with torch.device("meta"):
        model = build_pruned(config, CLASSES)
    per_epoch = config["training"]["iterations"] / 64
    assert per_epoch == 20_210 // 8
    for epoch, removed in enumerate(logs):
        for iteration in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            model.progress = iteration / config["training"]["iterations"]
            budgets = model.budgets(POSITIONS)
            expected = {b: 1023 - b * removed for b in range(1, 23)} if removed else {}
            assert {b: budget.keep for b, budget in budgets.items()} == expected, epoch
