"""Every configuration composes and validates, at every scale, without data or weights."""

from itertools import product
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tokenprune.backbones.vit import build_vit
from tokenprune.engine.legality import check_pairing
from tokenprune.registry import get, names
from tokenprune.runs.composer import composer
from tokenprune.runs.config import compose, dense_of, resolve
from tokenprune.runs.plugin_options import KINDS, defaults, published_method
from tokenprune.runs.presets import choices, files, read
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.classification.settings import Augmentation, Mixing, View, read_recipe
from tokenprune.tasks.encoder import positions
from tokenprune.utils.paths import config_dir

pytestmark = pytest.mark.system

SCALES = ("smoke", "demo", "paper")
METHODS = [path.stem for path in files("method") if path.stem == "dense" or not get("selector", choices(read(path))["selector"]).needs]
ROWS = list(rows_of("table2_preserve"))
TABLES = ("table2_preserve", "table3_reactivation", "table4_gating", "table5_sota", "insights")
CLASSIFIED = (
    "table6_throughput", "table7_imagenet", "fig8_batch_sizes", "training_free", "iso_compute", "cropr_table4_ablations",
    "cropr_table1_imagenet", "cropr_fig4_scaling", "cropr_appd_resolution", "cropr_appe_schedules", "downsample_control", "cropr_fusion",
)  # fmt: skip
LARGE = {name for name in CLASSIFIED if name.startswith("cropr")} | {"downsample_control"}
TABLE_ROWS = [(name, row) for name in TABLES for row in rows_of(name)]


@pytest.fixture(scope="module")
def of_tables():
    """Return the configurations of the rows of the detection tables, by experiment, row and scale."""
    with composer() as fast:
        return {
            (name, row, scale): resolve(fast.compose([f"+experiment={name}", f"+rows/{name}={row}", f"scale={scale}"]))
            for (name, row), scale in product(TABLE_ROWS, ("demo", "paper"))
        }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_validates_at_every_scale(method, scale):
    preset = read(config_dir() / "method" / f"{method}.yaml")
    refuses = any(get("loss", name).refusal("detection", get("task", "detection").gives) for name in preset.get("losses", {}))
    refuses |= method != "dense" and get("selector", choices(preset)["selector"]).mixing
    task = "classification" if refuses else "detection"
    words = validate(resolve(compose([f"method={method}", f"scale={scale}", f"task={task}"])), files=False)
    assert words.startswith("dense" if method == "dense" else "4200 positions" if scale == "paper" and not refuses else "")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", ("a_vit", "adavit", "ia_red2"))
def test_methods_of_table_7_validate_for_classification(method, scale):
    config = resolve(compose([f"method={method}", f"scale={scale}", "task=classification"]))
    words = validate(config, files=False)
    total, blocks = words.split(" ")[0], {"ia_red2": "0, 4, 8"}.get(method, "1-11")
    assert words.startswith(f"{total} positions: block {blocks} keep at most {total}; planned: at most ")
    epochs = {"a_vit": 100, "adavit": 150, "ia_red2": 90}[method]
    if scale == "paper":
        assert config["training"]["iterations"] == epochs * (1_281_167 // config["training"]["batch_size"])
    else:
        other = resolve(compose([f"scale={scale}", "task=classification", "method=evit"]))
        assert config["training"]["iterations"] == other["training"]["iterations"]


def test_the_paper_recipe_gives_way_to_the_command_line():
    config = resolve(compose(["method=a_vit", "scale=paper", "task=classification", "selector.beta=30", "training.lr=1"]))
    assert (config["selector"]["gamma"], config["selector"]["beta"], config["training"]["lr"]) == (10.0, 30.0, 1)
    assert config["losses"] == {"ponder": {"weight": 0.0005, "prior_weight": 0.001}}


def test_rows_of_detection_tables_are_of_their_task_and_have_an_adapter(of_tables):
    """That every row of every experiment is valid, `make validate` says."""
    for (_, _, scale), config in of_tables.items():
        assert (config["task"]["name"], config["scale"]) == ("detection", scale)
        assert "adapter" in config["backbone"]


@pytest.mark.parametrize("experiment", CLASSIFIED)
def test_rows_of_classification_tables_have_the_papers_model_at_paper_scale(experiment):
    """Rows differ in their method alone, those of Figure 4 apart, so that the first and the last stand for all."""
    rows = list(rows_of(experiment))
    with composer() as fast:
        for row in rows if experiment == "cropr_fig4_scaling" else (rows[0], rows[-1]):
            config = resolve(fast.compose([f"+experiment={experiment}", f"+rows/{experiment}={row}", "scale=paper"]))
            assert config["task"]["name"] == "classification" and config["experiment"] == experiment
            scaled = f"scaled_{row.split('_')[1]}" if experiment == "cropr_fig4_scaling" else None
            backbone = scaled or ("vit_large" if experiment in LARGE else "vit_small")
            assert (config["backbone"]["name"], config["data"]["name"]) == (backbone, "imagefolder")
    assert f"+experiment={experiment}" in (config_dir().parent / "experiments" / experiment / "README.md").read_text()


def test_how_throughput_is_measured_counts_only_where_it_is():
    def key(*overrides):
        return run_key(resolve(compose(["task=classification", "init_weights=null", *overrides])))

    assert key("task.throughput.batches=5") == key() and "throughput" not in resolve(compose(["task=classification"]))["task"]
    measured = ["method=svit", "measure=[accuracy,cost,throughput]"]
    assert key(*measured, "task.throughput.batches=5") != key(*measured) != key("method=svit")
    dense = dense_of(resolve(compose(["task=classification", "init_weights=null", *measured])))
    assert run_key(dense) == key(), "the dense model that rows start from is the dense row of other tables"


def test_the_planned_cost_of_table_7_is_the_papers():
    """3.0 of 4.6 GMAC at keep rate 0.7, as printed; samplers and gates within what their plans are."""
    for row in ("01_dynamicvit", "02_evit", "03_evo_vit", "05_ats", "09_svit"):
        words = validate(resolve(compose(["+experiment=table7_imagenet", f"+rows/table7_imagenet={row}", "scale=paper"])), files=False)
        assert float(words.rsplit(" GMAC", 1)[0].rsplit(" ", 1)[1]) == pytest.approx(3.0, abs=0.06)


def test_tables_share_rows_and_differ_where_their_names_say(of_tables):
    """A shared row is computed once: its key does not depend on the table that asks for it."""
    keys = {f"{name}/{row}": run_key(config) for (name, row, scale), config in of_tables.items() if scale == "demo"}
    svit = [keys[k] for k in ("table3_reactivation/00_dynamic_reactivation", "table4_gating/00_mlp", "table5_sota/06_svit")]
    assert len(set(svit)) == 1 and keys["insights/00_dynamicvit_remove"] == keys["table5_sota/04_dynamicvit_remove"]
    large = {f"{name}/{row}": run_key(config) for (name, row, scale), config in of_tables.items() if scale == "paper"}
    assert all(found["table2_preserve/03_evit_remove"] == found["table5_sota/01_evit_remove"] for found in (keys, large))
    for group in TABLES:
        own = [key for name, key in keys.items() if name.startswith(f"{group}/")]
        assert len(set(own)) == len(own)
    assert set(key for name, key in large.items() if name.startswith("insights/")) <= set(
        key for name, key in large.items() if not name.startswith("insights/")
    )


def test_table2_has_the_rows_of_the_paper_in_its_order():
    parts = [row.split("_", 1)[1] for row in ROWS]
    assert parts == ["dense", "dynamicvit_remove", "dynamicvit_preserve", "evit_remove", "evit_preserve", "evit_fused", "ats_remove",
                     "ats_preserve", "evo_vit_preserve", "svit", "dense_elastic"]  # fmt: skip


def test_paper_scale_has_the_papers_size_counts_and_recipe():
    config = resolve(compose(["method=evit", "scale=paper"]))
    assert positions(config) == 4200
    budgets = check_pairing(config["selector"], config["treatment"], config["schedule"], depth=12, positions=4200)
    assert [b.keep for b in budgets] == [2940, 2058, 1441]
    recipe = config["training"]
    assert (recipe["lr"], recipe["weight_decay"], recipe["batch_size"], recipe["warmup"]) == (1e-5, 1e-6, 16, 500)
    assert recipe["iterations"] == 6 * 7330 and recipe["steps"][0] * 6 == pytest.approx(4)
    assert config["data"]["name"] == "coco" and config["cls"] == "random" and config["backbone"]["class_token"] is False
    assert config["task"]["augment"]["final_crop"] == 1024
    assert config["backbone"]["name"] == "vit_adapter_tiny" and config["backbone"]["adapter"] is not None
    assert config["backbone"]["pos_resample"] == "bicubic"  # the authors' way; the keys of small rows stay as they are
    assert all("pos_resample" not in resolve(compose(["method=evit", f"scale={small}"]))["backbone"] for small in ("smoke", "demo"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_validates_for_classification(method):
    """Image folders and shapes, each at one of the small scales; the paper's own data at the last."""
    for scale, data, positions_ in (("smoke", ["data=imagefolder"], 64), ("demo", [], 256), ("paper", [], 196)):
        config = resolve(compose([f"method={method}", f"scale={scale}", "task=classification", *data]))
        assert validate(config, files=False).startswith("dense" if method == "dense" else f"{positions_} positions")


def test_paper_scale_of_classification_has_svits_recipe_and_deits():
    config = resolve(compose(["method=svit", "scale=paper", "task=classification"]))
    assert (config["data"]["name"], config["data"]["side"], config["data"]["max_val"]) == ("imagefolder", 224, None)
    assert (config["backbone"]["embed_dim"], config["backbone"]["drop_path"], config["cls"]) == (384, 0.1, "learned")
    fine, dense = config["training"], config["dense"]["training"]
    assert fine["iterations"] == 30 * 1251 and fine["lr"] == pytest.approx(1024 / 512 * 1e-5) and "ema" not in fine
    assert (dense["iterations"], dense["warmup"], dense["lr"]) == (300 * 1251, 5 * 1251, pytest.approx(1024 / 512 * 5e-4))
    assert (dense["ema"], config["dense"]["init"]) == (0.99996, "scratch")
    recipe = read_recipe(config)
    assert recipe.augment == Augmentation(repeats=3) and recipe.mix == Mixing() and recipe.view == View()
    detection = resolve(compose(["method=svit", "scale=paper"]))
    assert detection["dense"]["init"] is None and not {"view", "mix"} & set(detection["task"])
    assert not {"view", "augment", "mix"} & set(detection["pretrained"]["task"]) and "ema" not in detection["pretrained"]["training"]


def test_photographs_keep_their_colours_and_shapes_their_flips():
    """And a published head fits: no output is added for token labels."""
    photographs = read_recipe(resolve(compose(["task=classification", "data=imagefolder"])))
    assert photographs.view == View() and photographs.augment.policy is None and photographs.mix is None
    assert (photographs.channels, photographs.vertical_flip, photographs.token_labels) == (False, False, 0.0)
    shapes = resolve(compose(["task=classification"]))["task"]
    assert shapes == {"name": "classification", "flip": True, "vertical_flip": True, "channels": True, "token_labels": 0.0,
                      "batch_size": 50, "cost_images": 64, "speed_images": 20}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["scale=paper"], "vit_adapter_tiny"),
        (["scale=paper", "backbone=vit_tiny"], "vit_tiny"),
        (["scale=paper", "backbone=vit_adapter_small"], "vit_adapter_small"),
        (["scale=paper", "task=classification"], "vit_small"),
        (["scale=paper", "task=classification", "backbone=vit_tiny"], "vit_tiny"),
        (["backbone=vit_adapter"], "vit_adapter_demo"),
        (["backbone=vit_adapter", "scale=smoke"], "vit_adapter_smoke"),
        (["backbone=vit_adapter", "scale=paper"], "vit_adapter_tiny"),
        (["scale=smoke"], "vit_smoke"),
        ([], "vit_demo"),
    ],
    ids=str,
)
def test_the_backbone_follows_scale_and_task_and_the_command_line(overrides, name):
    assert compose(overrides).backbone.name == name


@pytest.mark.parametrize("path", [p for p in files("backbone") if p.stem not in ("timm_by_scale", "hf")], ids=lambda p: p.stem)
def test_every_backbone_builds_and_names_its_size(path):
    config = resolve(compose([f"backbone={path.stem}"]))["backbone"]
    with torch.device("meta"):
        build_vit(config)
    adapted = "adapter" in path.stem or path.stem in ("paper", "detection_paper")
    assert (config.get("adapter") is not None) == adapted == ("adapter" in config["name"])
    sizes = ("small", "base", "large", "huge")
    named = {"classification_paper": "small", "classification_mae_paper": "large", "eva02_windowed": "large"}
    scaled = path.stem.startswith("scaled_eva02") and "tiny"  # large at scale=paper
    size = scaled or named.get(path.stem) or next((s for s in sizes if s in path.stem), "tiny")
    assert config["size"] == size


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_an_adapter_has_the_values_of_the_plain_vit(size):
    adapted, plain = (resolve(compose(["scale=paper", f"backbone={kind}_{size}"]))["backbone"] for kind in ("vit_adapter", "vit"))
    assert {k: v for k, v in adapted.items() if k not in ("adapter", "name")} == {k: v for k, v in plain.items() if k != "name"}
    assert adapted["drop_path"] == {"tiny": 0.1, "small": 0.2, "base": 0.3}[size]


@pytest.mark.parametrize(("backbone", "epochs", "step"), [("vit_adapter_tiny", 6, 4), ("vit_adapter_small", 4, 3), ("vit_small", 4, 3)])
def test_the_small_model_is_fine_tuned_for_fewer_epochs(backbone, epochs, step):
    recipe = resolve(compose(["scale=paper", "method=svit", f"backbone={backbone}"]))["training"]
    assert recipe["iterations"] == epochs * 7330 and [s * epochs for s in recipe["steps"]] == pytest.approx([step])
    demo = resolve(compose(["method=svit", f"backbone={backbone}"]))["training"]
    assert demo["iterations"] == resolve(compose(["method=svit"]))["training"]["iterations"]


def test_a_demo_detector_with_an_adapter_starts_from_classification():
    for name in ("vit_adapter", "vit_adapter_demo"):
        config = resolve(compose(["method=svit", f"backbone={name}"]))
        assert config["init_weights"] is None and config["dense"]["init"] == "pretrained"


def test_the_dense_row_is_trained_further_at_demo_scale_only():
    """In the paper the dense row is the dense model; in the demo it gets what the others get."""
    demo, paper = (resolve(compose([f"scale={scale}"])) for scale in ("demo", "paper"))
    assert demo["init"] == "dense" and demo["training"]["iterations"] == resolve(compose(["method=evit"]))["training"]["iterations"]
    assert paper["init"] is None and paper["training"]["iterations"] == 36 * 7330


def test_command_line_beats_experiment_beats_method():
    assert compose(["method=evit", "treatment=preserve"]).treatment.name == "preserve"
    row = ["+experiment=table2_preserve", "+rows/table2_preserve=02_dynamicvit_preserve"]
    assert compose(row).treatment.name == "preserve"
    assert compose([*row, "treatment=remove", "training.lr=1"]).treatment.name == "remove"
    assert compose([*row, "training.lr=1"]).training.lr == 1


def test_scale_beats_method_and_training(tmp_path):
    assert compose(["method=dynamicvit", "scale=smoke"]).training.iterations == 3


def test_plain_group_choices_of_the_coco_command():
    config = compose(["method=evit", "treatment=preserve", "task=detection", "data=coco", "data.root=DIR", "scale=smoke"])
    assert (config.task.name, config.data.root, config.data.short_side, config.backbone.name) == ("detection", "DIR", 128, "vit_smoke")


def test_shipped_weights_serve_only_the_model_and_data_they_were_made_of():
    assert compose([]).init_weights == "demo"
    assert compose(["task=classification"]).init_weights == "demo_classifier"
    for pool, weights in ((["backbone.pool=token", "backbone.pool_includes_prefix=null"], "demo_token"), ([], "demo_mean")):
        assert compose(["task=classification_mae", *pool]).init_weights == weights
    for other in (["data=coco"], ["backbone=vit_tiny"], ["scale=smoke"], ["scale=paper"]):
        assert compose(other).init_weights is None
    for other in (["data=imagefolder"], ["backbone=vit_tiny"], ["scale=smoke"], ["scale=paper"]):
        assert compose(["task=classification", *other]).init_weights is None


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_plugins_have_options_that_exist(kind):
    for path in files(kind):
        name = read(path)["name"]
        assert name == "none" or set(read(path)) - {"name"} <= set(defaults(kind, name)), path


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_a_plugin_is_set_without_a_plus(kind):
    with composer() as compose_:
        for name in names(kind):
            options = defaults(kind, name)
            config = compose_.compose([f"{kind}={name}", *(f"{kind}.{option}=7" for option in options)])
            assert dict(config[kind]).items() >= {"name": name, **dict.fromkeys(options, 7)}.items()


def test_a_plugin_without_files_is_a_choice_with_its_defaults():
    assert dict(compose(["selector=cropr"]).selector) == {"name": "cropr", **defaults("selector", "cropr")}
    assert published_method("dpc_knn") == {
        "defaults": [{"override /selector": "dpc_knn"}, {"override /treatment": "merge"}, {"override /schedule": "stages"}, "_self_"],
        "method": "dpc_knn", "label": "dpc_knn", "treatment": {"proportional": False},
    }  # fmt: skip


@pytest.mark.parametrize("method", ["mctf", "ppt", "tofu"])
def test_a_method_without_a_file_takes_another_schedule(method):
    """Its own schedule has the options of its class, whatever its images; another one has none of them."""
    published = get("selector", method).published["schedule"]
    assert {k: compose([f"method={method}"]).schedule[k] for k in published} == published
    other, usual = (compose([f"method={name}", "schedule=stages", "schedule.keep_rate=0.6"]).schedule for name in (method, "topk"))
    assert dict(other) == dict(usual)


def test_a_method_without_a_file_is_called_as_its_class_says():
    assert compose(["method=diffrate"]).label == published_method("diffrate")["label"] == "DiffRate"
    assert get("selector", "algm").shown_label() == "ALGM"
    assert type("Derived", (get("selector", "algm"),), {"name": "derived"}).shown_label() == "derived"


def test_an_option_that_equals_its_default_changes_no_run_key():
    usual = resolve(compose(["method=cropr", "scale=smoke"]))
    bare = {**usual, "selector": {"name": "cropr"}, "treatment": {"name": usual["treatment"]["name"]}}
    other = {**usual, "selector": {**usual["selector"], "heads": 2}}
    assert run_key(usual) == run_key(bare) != run_key(other)


@pytest.mark.parametrize(
    "selector",
    [name if place % 4 == 0 else pytest.param(name, marks=pytest.mark.slow) for place, name in enumerate(sorted(names("selector")))],
)
def test_a_selector_alone_takes_the_preset_of_its_name(selector):
    """`-m selector=evit,ats treatment=remove,preserve` needs no method."""
    alone, method = (resolve(compose(["scale=smoke", f"{axis}={selector}"])) for axis in ("selector", "method"))
    assert {k: alone[k] for k in ("schedule", "treatment", "losses", "label", "method")} == {
        k: method[k] for k in ("schedule", "treatment", "losses", "label", "method")
    }


def test_a_selector_alone_keeps_what_was_given():
    config = resolve(compose(["selector=evit", "treatment=preserve", "schedule.keep_rate=0.5"]))
    assert (config["treatment"]["name"], config["schedule"]["keep_rate"], config["schedule"]["of"]) == ("preserve", 0.5, "current")


def test_a_published_treatment_may_have_options():
    assert dict(compose(["selector=dpc_knn"]).treatment) == {"name": "merge", "proportional": False}


@pytest.mark.parametrize("path", files("experiment"), ids=lambda p: p.stem)
def test_experiment_files_open_with_command_time_and_numbers(path: Path):
    text = path.read_text()
    assert text.startswith(f"# @package _global_\n# python -m tokenprune.run +experiment={path.stem}")
    assert "Time:" in text and "Expect" in text


def test_no_targets_outside_hydra():
    for path in config_dir().rglob("*.yaml"):
        loaded = OmegaConf.to_container(OmegaConf.load(path)) or {}
        loaded.pop("hydra", None)
        assert "_target_" not in str(loaded), path


def test_a_timm_model_by_name_has_its_own_depth():
    """22 modules in EVA-02-L, whatever `depth` says: the counts that a run prints are those of the model."""
    rows = ["scale=paper", "task=classification", "backbone=eva02_large", "method=cropr", "schedule.remove=40", "+backbone.depth=6"]
    words = validate(resolve(compose(rows)), files=False)
    assert words.startswith("1024 positions: block 1 keep 983, block 2 keep 943") and "block 22 keep 143; planned: 204 GMAC" in words
    smaller = validate(resolve(compose([*rows, "backbone.img_size=224", "schedule.remove=8"])), files=False)
    assert smaller.startswith("256 positions: block 1 keep 247")
