"""How each paper trains: Table 7's epochs, the rates, what a teacher adds, and who overrides whom."""

import pytest

from tokenprune.errors import InvalidConfig
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.plugin_options import defaults
from tokenprune.runs.presets import files
from tokenprune.runs.rows import rows_of
from tokenprune.runs.validation import validate
from tokenprune.tasks.classification.settings import Augmentation, Mixing, View, read_recipe
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils.settings import read_settings

pytestmark = pytest.mark.system

EPOCH = 1251  # iterations at batch 1024
PAPER = ["scale=paper", "task=classification"]
DISTILL = {"logits": 0.5, "tokens": 0.5, "kind": "mse"}
# epochs, lr at batch 1024, least lr, weight decay, epochs of warm-up, backbone's share of the lr, epochs that it rests, DropPath, EMA
RECIPES = {
    "dynamicvit": (30, 1e-3, 1e-6, 0.05, 5, 0.01, 5, False, 0.9999),
    "evit": (30, 4e-5, 2e-6, 1e-6, 0, 1.0, 0, False, None),
    "evit_fused": (30, 4e-5, 2e-6, 1e-6, 0, 1.0, 0, False, None),
    "evo_vit": (30, 2e-5, 0.0, 1e-6, 0, 1.0, 0, True, None),
    "ats": (30, 4e-5, 2e-6, 1e-6, 0, 1.0, 0, False, None),
    "svit": (30, 2e-5, 0.0, 1e-6, 0, 1.0, 0, True, None),
    "spvit": (60, 1e-3, 1e-5, 0.05, 0, 0.01, 5, True, 0.99996),
}
SCRATCH = {"evit": "evit_scratch", "evit_fused": "evit_scratch", "evo_vit": "evo_vit_scratch"}


def composed(*overrides):
    config = resolve(compose(list(overrides)))
    validate(config, files=False)
    return config


@pytest.mark.parametrize("method", RECIPES)
def test_recipes_of_table_7(method):
    config = composed(f"method={method}", *PAPER)
    recipe = read_settings(TrainingConfig, config["training"], "training")
    epochs, lr, least, decay, warmup, share, rest, drop_path, ema = RECIPES[method]
    assert (recipe.iterations, recipe.warmup, recipe.batch_size) == (epochs * EPOCH, warmup * EPOCH, 1024)
    assert (recipe.lr, recipe.min_lr, recipe.weight_decay, recipe.clip) == (pytest.approx(lr), least, decay, None)
    assert (recipe.backbone_lr_scale, recipe.selector_lr_scale) == (share, 1.0)
    assert recipe.backbone_freeze * recipe.iterations == pytest.approx(rest * EPOCH)
    assert (recipe.drop_path, recipe.ema, recipe.schedule) == (drop_path, ema, "cosine")
    assert config["dense"]["training"] == composed("method=svit", *PAPER)["dense"]["training"]  # one dense model for all


def test_croprs_recipe_is_that_of_every_row_of_its_tables():
    mae = ("scale=paper", "task=classification_mae")
    own, other, dense = (composed(f"method={method}", *mae) for method in ("cropr", "random", "dense"))
    assert own["training"] == other["training"] == {**dense["training"], "seed": own["training"]["seed"]}
    assert own["losses"] == {"auxiliary": {"weight": 1.0, "reduce": "sum"}} and other["losses"] == {}
    recipe = read_settings(TrainingConfig, own["training"], "training")
    assert (recipe.layer_decay, recipe.lr, recipe.min_lr, recipe.iterations) == (0.75, pytest.approx(1e-3 * 1024 / 256), 1e-6, 50 * EPOCH)
    backbone = own["backbone"]
    assert (backbone["drop_path"], backbone["pool"], backbone["pool_includes_prefix"], backbone["depth"]) == (0.2, "avg", True, 24)
    recipe = read_recipe(own)
    assert recipe.augment == Augmentation(repeats=1, color_jitter=0.0) and recipe.mix == Mixing() and recipe.view == View()
    for scale in ("smoke", "demo"):
        own, other = (composed("method=cropr", f"scale={scale}", f"task={task}") for task in ("classification_mae", "classification"))
        assert (own["backbone"].pop("pool"), own["backbone"].pop("pool_includes_prefix")) == ("avg", True)
        assert "layer_decay" not in own["training"] and "pool" not in other["backbone"]
        assert {name for name in own if own[name] != other[name]} == ({"training", "init_weights"} if scale == "demo" else set())


def test_cropr_has_auxiliary_heads_where_there_are_labels():
    for axis in ("method", "selector"):
        assert composed(f"{axis}=cropr", "scale=smoke", "task=classification")["losses"] == {"auxiliary": {"weight": 1.0, "reduce": "sum"}}
        assert composed(f"{axis}=cropr", "scale=smoke", "task=detection")["losses"] == {"auxiliary": {"weight": 1.0, "reduce": "sum"}}
    assert composed("method=cropr", "scale=smoke", "task=classification", "losses.auxiliary=null")["losses"] == {}
    options = composed("method=cropr", "scale=smoke", "selector.heads=4", "selector.select=sampling")["selector"]
    assert options == {"name": "cropr", **defaults("selector", "cropr"), "heads": 4, "select": "sampling"}


def test_rows_of_croprs_table_4_differ_in_one_option_each():
    rows = {
        name: composed("+experiment=cropr_table4_ablations", f"+rows/cropr_table4_ablations={name}", "scale=paper")
        for name in rows_of("cropr_table4_ablations")
    }
    simple = {"name": "cropr", **defaults("selector", "cropr")}
    changed = ({}, {"heads": 16}, {"select": "sampling"}, {"mlp": False}, {"stop_grad": False})
    assert [row["selector"] for row in rows.values()] == [{**simple, **option} for option in changed]
    for row in rows.values():
        assert row["schedule"] == {"name": "per_block", "remove": 8, "start": 1, "stop": None, "align": False}
        assert row["training"]["layer_decay"] == 0.75 and "throughput" in row["measure"] and row["backbone"]["name"] == "vit_large"
    for scale, given, name in (("smoke", (), "vit_smoke"), ("demo", (), "vit_demo"), ("paper", ("backbone=vit_base",), "vit_base")):
        row = composed("+experiment=cropr_table4_ablations", "+rows/cropr_table4_ablations=01_mha", f"scale={scale}", *given)
        assert (row["backbone"]["name"], row["backbone"]["pool"], row["backbone"]["pool_includes_prefix"]) == (name, "avg", True)
    assert len({row["label"] for row in rows.values()}) == 5


@pytest.mark.parametrize("method", SCRATCH)
def test_recipes_from_scratch_are_deits_with_a_schedule_that_changes(method):
    config = composed(f"method={method}", *PAPER, f"+recipe={SCRATCH[method]}")
    assert config["init"] == "scratch" and config["training"]["iterations"] == 300 * EPOCH and config["training"]["lr"] == 1e-3
    schedule = config["schedule"]
    if method == "evo_vit":
        assert schedule["stage_wise_from"] * 300 == pytest.approx(200)
    else:
        assert [schedule[k] * 300 for k in ("shrink_start", "shrink_end")] == pytest.approx([10, 110])


@pytest.mark.parametrize("path", files("recipe"), ids=lambda p: p.stem)
def test_every_recipe_says_where_it_is_from(path):
    first = path.read_text().splitlines()
    assert first[0] == "# @package _global_" and first[1].startswith("# ") and len(first[1]) > 40


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_where_there_are_labels_there_is_a_teacher(scale):
    for method, ratio in (("dynamicvit", {"weight": 2.0, "form": "image"}), ("spvit", {"weight": 2.0, "form": "batch"})):
        for axis in ("method", "selector"):  # a selector alone takes what its method adds to the task, too
            assert composed(f"{axis}={method}", f"scale={scale}", "task=classification")["losses"] == {"ratio": ratio, "distill": DISTILL}
            assert composed(f"{axis}={method}", f"scale={scale}", "task=detection")["losses"] == {"ratio": ratio}


def test_the_command_line_beats_the_recipe():
    config = composed("method=dynamicvit", *PAPER, "training.lr=0.5", "training.drop_path=true", "losses.distill.logits=3")
    assert (config["training"]["lr"], config["training"]["drop_path"], config["training"]["min_lr"]) == (0.5, True, 1e-6)
    assert config["losses"]["distill"] == {**DISTILL, "logits": 3}
    assert "distill" not in composed("method=dynamicvit", "scale=smoke", "task=classification", "losses.distill=null")["losses"]
    alone = composed("selector=dynamicvit", "scale=smoke", "task=classification", "losses.distill.tokens=0", "losses.ratio.weight=9")
    assert alone["losses"] == {"ratio": {"weight": 9, "form": "image"}, "distill": {**DISTILL, "tokens": 0}}


def with_experiment(folder, text, *overrides):
    """Compose a run of an experiment file of one's own."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from tokenprune.runs.config import register_schema
    from tokenprune.utils.paths import config_dir

    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "mine.yaml").write_text(text)
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra_compose("config", [*overrides, "+experiment=mine", f"hydra.searchpath=[file://{folder}]"])


def test_an_experiment_beats_the_recipe(tmp_path):
    """What a table says of its rows, it says of all of them."""
    text = "# @package _global_\ntraining: {lr: 7.0e-4}\nlosses: {distill: {kind: kl}}\n"
    config = with_experiment(tmp_path, text, *PAPER, "method=dynamicvit")
    assert (config.training.lr, config.training.min_lr, config.losses.distill.kind) == (7e-4, 1e-6, "kl")


def test_detection_is_refused_distillation_by_name():
    with pytest.raises(InvalidConfig, match="losses.distill needs .*task=detection"):
        composed("method=dynamicvit", "scale=smoke", "+losses.distill={}")
