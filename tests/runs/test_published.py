"""What a method sets in a schedule: `tokenprune.prune` and the command line read it from the selector's class."""

import pytest
from timm.models.vision_transformer import VisionTransformer

import tokenprune
from tokenprune.engine.arguments import completed, explicit
from tokenprune.registry import build, get, names
from tokenprune.runs.composer import composer
from tokenprune.runs.config import resolve
from tokenprune.tasks.encoder import build_pruned

# Presets whose schedule is not that of the class, with the reason.
OTHERS = {"ats": "SViT's tables count it at three stages", "dtop": "its count is for the grids of segmentation"}


@pytest.fixture(scope="module")
def composed():
    """Compose runs while Hydra is set up."""
    with composer() as compose:
        yield lambda *words: resolve(compose.compose(list(words)))


def vit(classes=3):
    return VisionTransformer(img_size=224, patch_size=16, embed_dim=12, depth=12, num_heads=3, num_classes=classes).eval()


def kept(model):
    return {block: budget.keep for block, budget in model.budgets(196).items()}


@pytest.mark.parametrize("selector", [name for name in names("selector") if name not in OTHERS])
def test_a_run_at_scale_paper_keeps_what_prune_keeps(selector, composed):
    run = composed(f"method={selector}", "scale=paper", "task=classification")
    published = get("selector", selector).published["schedule"]
    ours, theirs = (build("schedule", spec).at(1.0) for spec in (published, {k: v for k, v in run.schedule.items() if k != "target_gmac"}))
    layout = tokenprune.Layout(12, 196, 1)
    assert ours.budgets(layout) == theirs.budgets(layout)


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_evo_vit_is_stage_wise_where_images_are_classified_and_chooses_at_every_block_in_dense_tasks(scale, composed):
    for task, blocks in (("classification", [4, 8]), ("detection", list(range(4, 12))), ("segmentation", list(range(4, 12)))):
        schedule = build("schedule", composed("method=evo_vit", f"scale={scale}", f"task={task}").schedule)
        assert [block for block, _ in schedule.at(1.0).rates(tokenprune.Layout(12, 196))] == blocks
        training = [block for block, _ in schedule.at(0.5).rates(tokenprune.Layout(12, 196))]
        assert training == list(range(4, 12))


def test_two_keep_rates_of_evo_vit_are_two_runs(composed):
    rates = {}
    for keep_rate in (0.9, 0.7, 0.5):
        schedule = composed("method=evo_vit", "scale=paper", f"schedule.keep_rate={keep_rate}").schedule
        budgets = build("schedule", schedule).budgets(tokenprune.Layout(12, 196))
        rates[keep_rate] = budgets[0].keep
    assert rates[0.9] > rates[0.7] == 98 > rates[0.5]
    assert composed("method=evo_vit", "scale=paper", "schedule.keep_rate=0.9", "schedule.rate=0.6").schedule["rate"] == 0.6


@pytest.mark.parametrize(
    ("selector", "given", "counts"),
    [
        ("evit", {"name": "stages", "keep_rate": 0.7}, {3: 138, 6: 98, 9: 70}),
        ("evit", {"keep_rate": 0.7}, {3: 138, 6: 98, 9: 70}),
        ("evit", "stages", {3: 138, 6: 98, 9: 70}),
        ("evit", {"name": "stages", "keep_rate": 0.7, "of": "original", "rounding": "floor"}, {3: 137, 6: 96, 9: 67}),
        ("tome", {"name": "per_block", "remove": 16}, {block: 196 - 16 * (block + 1) for block in range(11)} | {11: 10}),
        ("tome", "per_block", {block: 196 - 13 * (block + 1) for block in range(12)}),
        ("evo_vit", {"name": "constant", "keep_rate": 0.7}, {4: 98, 8: 98}),
        ("evo_vit", {"stage_wise_from": None}, dict.fromkeys(range(4, 12), 98)),
        ("ats", None, dict.fromkeys(range(3, 12), 196)),
    ],
    ids=str,
)
def test_a_partial_schedule_changes_the_papers(selector, given, counts):
    assert kept(tokenprune.prune(vit(), selector, schedule=given)) == counts


def test_another_schedule_stands_for_itself():
    other = {"name": "stages", "keep_rate": 0.5}
    assert completed(other, {"name": "per_block", "remove": 13}, "schedule") == other
    assert completed("merge", {"name": "merge", "proportional": False}, "treatment") == {"name": "merge", "proportional": False}


def test_a_run_says_all_of_its_options_so_that_nothing_is_added(composed):
    run = composed("method=tome", "scale=smoke", "task=classification", "schedule.start=1", "schedule.align=true")
    schedule = build_pruned(run, 5).schedule
    assert (schedule.remove, schedule.start, schedule.align) == (3, 1, True)
    row = {"backbone": run["backbone"], "selector": {"name": "evo_vit"}, "treatment": "reactivate", "schedule": {"name": "constant"}}
    assert build_pruned(row, 5).schedule.stage_wise_from is None
    usual = {"keep_rate": 0.7, "start": 4, "rate": None, "rounding": "floor", "stage_wise_from": None, "span": 4}
    assert explicit("schedule", "constant") == {"name": "constant", **usual}
