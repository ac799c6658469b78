"""Segmentation: what its groups compose to, the paper's recipe, and the experiment of Cropr's Figure 5."""

import csv
from pathlib import Path

import pytest

from tests.data.test_semantic import write
from tokenprune.errors import InvalidConfig
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.segmentation.settings import PixelAugmentation, read_segmentation
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils.paths import config_dir, expected_of
from tokenprune.utils.settings import read_settings

pytestmark = pytest.mark.system

FIGURE = "cropr_fig5_segmentation"
ROWS = list(rows_of("cropr_fig5_segmentation"))
PAPER = Path(__file__).parents[2].parent / "shared" / "reference" / "paper" / "cropr_table5_fusion.csv"
PLANNED = {"smoke": ("0.027", "0.0166"), "demo": ("0.498", "0.296"), "paper": ("362", "204")}  # of the dense model and Cropr's


def composed(*overrides):
    return resolve(compose(["task=segmentation", *overrides]))


def row(name, *overrides):
    return resolve(compose([f"+experiment={FIGURE}", f"+rows/cropr_fig5_segmentation={name}", *overrides]))


@pytest.mark.parametrize("scale", PLANNED)
def test_every_row_validates_and_plans_the_paper_s_cost(scale):
    for name in ROWS:
        config = row(name, f"scale={scale}")
        words = validate(config, files=False)
        dense, pruned = PLANNED[scale]
        assert name == "03_attn_topk" or words.endswith(f"planned: {dense if name == '00_dense' else pruned} GMAC"), words
        assert config["treatment"]["name"] == ("none" if name == "00_dense" else "last_layer_fusion")
        assert "throughput" in config["measure"] and len(read_segmentation(config).throughput.batch_sizes) == 1
    assert f"+experiment={FIGURE}" in (config_dir().parent / "experiments" / FIGURE / "README.md").read_text()


def test_rows_of_the_paper():
    rows = {name: row(name, "scale=paper") for name in ROWS}
    assert [r["selector"]["name"] for r in rows.values()] == ["none", "random", "variance", "attn_topk", "cropr"]
    assert rows["03_attn_topk"]["selector"]["score"] == "column_mean"
    assert rows["04_cropr"]["selector"].items() >= {"name": "cropr", "queries": "patches"}.items()
    assert {name: r["losses"] for name, r in rows.items() if r["losses"]} == {"04_cropr": {"auxiliary": {"weight": 1.0, "reduce": "sum"}}}
    plan = {"name": "per_block", "remove": 40, "start": 1, "stop": None, "align": True, "ramp": 64}
    assert all(r["schedule"] == plan for name, r in rows.items() if name != "00_dense")


@pytest.mark.parametrize(("scale", "seeds"), [("smoke", [0]), ("demo", [0, 1, 2]), ("paper", [0, 1, 2, 3, 4])])
def test_seeds_follow_the_scale(scale, seeds):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed_ = hydra_compose("config", overrides=[f"+experiment={FIGURE}", f"scale={scale}"], return_hydra_config=True)
    assert [int(s) for s in str(composed_.hydra.sweeper.params.seed).split(",")] == seeds


def test_the_recipe_of_the_released_logs():
    own, other, dense = (composed(f"method={m}", "scale=paper") for m in ("cropr", "random", "dense"))
    assert own["training"] == other["training"] == dense["training"]
    recipe = read_settings(TrainingConfig, own["training"], "training")
    assert (recipe.iterations, recipe.batch_size, recipe.lr, recipe.weight_decay) == (64 * (20_210 // 8), 8, 2e-5, 0.05)
    assert (recipe.schedule, recipe.power, recipe.layer_decay, recipe.warmup, recipe.min_lr) == ("poly", 0.9, 0.9, 0, 0.0)
    assert (own["backbone"]["model"], own["backbone"]["img_size"], own["backbone"]["patch_size"]) == ("eva02_large_patch14_224", 512, 16)
    assert (own["backbone"]["drop_path"], own["backbone"]["pool"], own["data"]["side"]) == (0.2, "avg", 512)
    seen = read_segmentation(own)
    assert seen.mean == seen.std == (127.5 / 255,) * 3
    assert seen.augment == PixelAugmentation(policy="segmenter", ratio=(0.5, 2.0), most=0.75) and len(own["data"]["classes"]) == 150
    assert (own["data"]["ignore"], own["data"]["offset"]) == ([0], 1)


@pytest.mark.parametrize("data", ["semantic", "camvid", "coco_semantic", "ade20k"])
def test_photographs_stay_upright_at_every_scale(data):
    for scale, most in (("smoke", 6), ("demo", 250), ("paper", None)):
        config = composed(f"data={data}", f"scale={scale}")
        chosen = config["data"]
        assert (chosen["name"], chosen["max_val"], chosen["side"]) == ("semantic", most, config["backbone"]["img_size"])
        augment = read_segmentation(config).augment
        assert augment.flip and not augment.vertical_flip and not augment.channels
        assert config["init"] == ("dense" if scale != "paper" else None) or config["init"] == "scratch"
    assert composed("scale=demo")["data"]["textured"] and composed("scale=demo")["dense"]["init"] == "demo_classifier"


def test_a_selector_alone_takes_what_its_method_sets_for_the_task():
    own, given = composed("selector=cropr", "scale=smoke"), composed("selector=cropr", "scale=smoke", "selector.queries=3")
    assert own["selector"] == composed("method=cropr", "scale=smoke")["selector"] and own["losses"] == given["losses"] != {}
    assert given["selector"]["queries"] == 3 and composed("selector=attn_topk", "scale=smoke")["selector"]["score"] == "column_mean"
    assert resolve(compose(["selector=attn_topk", "scale=smoke"]))["selector"]["score"] == "cls"


def test_an_adapter_is_refused():
    with pytest.raises(InvalidConfig, match="segmentation has its head on the ViT itself"):
        validate(composed("backbone=vit_adapter"), files=False)


def test_a_missing_root_says_what_it_holds():
    with pytest.raises(InvalidConfig, match=r"data\.root is not set; give the folder that holds images/ and labels/"):
        validate(composed("data=camvid", "scale=smoke"))


def test_the_key_follows_the_labels_and_not_the_path(tmp_path):
    def key(root):
        return run_key(composed("data=semantic", "scale=smoke", f"data.root={root}", "data.classes=[a,b]"))

    roots = [write(tmp_path / name, [[0, 1]], "x") for name in ("one", "two")]
    assert key(roots[0]) == key(roots[1]) != key(tmp_path)
    write(roots[1], [[0]], "y")
    assert key(roots[0]) != key(roots[1])
    listed = run_key(composed("data=camvid", "scale=smoke", f"data.root={roots[0]}"))
    (roots[0] / "classes.json").write_text('["a", "b"]')
    assert run_key(composed("data=camvid", "scale=smoke", f"data.root={roots[0]}")) != listed


def test_the_numbers_beside_are_the_papers():
    if not PAPER.is_file():
        pytest.skip("shared/reference/paper is not beside this checkout")
    with PAPER.open() as file:
        printed = {line["method"]: line for line in csv.DictReader(file)}
    with expected_of(FIGURE).open() as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    for name, of in (("Dense", "No pruning"), ("Cropr", "LLF")):
        own = [lines[name][column] for column in ("parameters", "gmacs_pixels", "miou")]
        assert own == [printed[of][column] for column in ("params_million", "gflops", "miou")]
    assert [lines[name]["miou"] for name in ("Random", "Variance", "Attn Top-K")] == ["", "", ""], "points of a plot, not printed"
