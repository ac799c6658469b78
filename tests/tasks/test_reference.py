"""task=timm: networks of any kind as timm has them, through the harness of the classifiers that are pruned."""

import copy
import functools
import re
from statistics import median

import numpy as np
import pytest
import timm
import torch

from tests.helpers.fakes import cli  # noqa: F401
from tests.helpers.image_sets import write_folder
from tokenprune import prune
from tokenprune.backbones.vit import build_vit
from tokenprune.errors import CheckpointMismatch, InvalidConfig
from tokenprune.measure import speed
from tokenprune.measure.speed import SpeedPlan, seconds_alone
from tokenprune.measure.throughput import ThroughputPlan, over_batches
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.results import COST, check, read_result
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.base import parameters_of
from tokenprune.tasks.timm_models import build_timm, cost_of
from tokenprune.utils.checkpoints import read_weights, save_weights
from tokenprune.utils.paths import config_dir

pytestmark = pytest.mark.system

CPU = torch.device("cpu")
SMALL = ("task=timm", "backbone=timm", "backbone.model=convnextv2_atto", "backbone.img_size=64", "scale=smoke")
ROWS = [name for name in rows_of("cropr_table2_eva02") if name >= "03"]
# The paper's parameters (10^9) and FLOPs (10^12), and which of our sums in GMAC they are nearest to.
PRINTED = {
    "03_caformer_b36": (0.1, 0.07, "linear", 65.94), "04_regnety_128gf": (0.6, 0.38, "linear", 374.57),
    "05_efficientnet_l2": (0.5, 0.48, "linear", 475.70), "06_convnextv2_huge": (0.7, 0.60, "linear", 600.40),
    "07_beitv2_large": (0.3, 0.18, "linear", 174.70), "08_maxvit_xlarge": (0.5, 0.54, "total", 532.90),
    "09_vit_large_distilled": (0.3, 0.18, "linear", 174.70), "10_beit3_giant": (1.0, 0.58, "linear", 582.82),
    "11_davit_giant": (1.4, 1.04, "linear", 1048.60), "12_vit_gigantic": (1.8, 2.52, "linear", 2522.48),
}  # fmt: skip


@functools.cache
def row_of(name, scale):
    return resolve(compose([f"+rows/cropr_table2_eva02={name}", f"scale={scale}"]))


def test_every_printed_network_has_a_row():
    assert list(PRINTED) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_of_croprs_table_2_cost_what_is_printed(row):
    config = row_of(row, "paper")
    words = re.fullmatch(r"dense: (\S+) as timm has it at (\d+) px; counted: (\S+) GMAC, (\S+) of them in layers, (\S+) M parameters",
                         validate(config, files=False))  # fmt: skip
    total, linear, millions = (float(number) for number in words.groups()[2:])
    parameters, printed, which, gmac = PRINTED[row]
    assert millions / 1e3 == pytest.approx(parameters, abs=0.05)
    assert (total if which == "total" else linear) == pytest.approx(gmac, rel=5e-4)
    assert (total if which == "total" else linear) / 1e3 == pytest.approx(printed, abs=0.0101)
    assert config["data"]["side"] == config["backbone"]["img_size"] == int(words[2]) and words[1] == config["backbone"]["model"]
    assert (config["init"], config["data"]["name"]) == ("scratch", "imagefolder")
    told = f"| {config['label']} | {words[1]} | {words[2]} | {words[5]} | {words[4]} | {words[3]} | {printed * 1e3:.0f} |"
    assert told in (config_dir().parent / "experiments/cropr_table2_eva02/README.md").read_text()


@pytest.mark.parametrize("row", ROWS)
def test_rows_take_what_timm_says_of_their_weights(row):
    """Where a row names weights, their size and view; a small relative of the family at other scales."""
    config, small = row_of(row, "paper"), [row_of(row, scale) for scale in ("smoke", "demo")]
    name, view = config["backbone"]["model"], config["task"]["view"]
    if "." in name:
        known, ours = timm.get_pretrained_cfg(name), {**view, "size": config["backbone"]["img_size"], "classes": 1000}
        assert ours == {"crop_pct": known.crop_pct, "interpolation": known.interpolation, "mean": list(known.mean), "std": list(known.std),
                        "size": known.input_size[1], "classes": known.num_classes}  # fmt: skip
    cost = cost_of(small[0]["backbone"])
    assert cost.parameters < 3e7 and cost.total < 0.7e9 and small[0]["backbone"] == small[1]["backbone"]
    assert all(other["backbone"]["img_size"] == other["data"]["side"] == 64 for other in small)
    assert small[0]["backbone"]["model"][:4] == name[:4]  # of the same family
    assert run_key(small[0]) != run_key(config) and "by_scale" not in config["backbone"]


@pytest.mark.parametrize("row", ["06_convnextv2_huge", "07_beitv2_large"])
def test_a_row_is_measured(cli, row):  # noqa: F811
    code, _, err = cli(f"+rows/cropr_table2_eva02={row}", "scale=smoke", "measure=[accuracy,cost,throughput]")
    assert (code, err) == (0, "")
    (made,) = cli.rows()
    config = row_of(row, "smoke")
    cost, expected = made["cost"], cost_of(config["backbone"], 8)
    assert (made["task"], made["cls"], made["treatment"], made["label"]) == ("timm", "own", "none", config["label"])
    assert cost["gmac_total"] == pytest.approx(expected.total / 1e9) and cost["gmac_linear"] == pytest.approx(expected.linear / 1e9)
    assert cost["parameters"] == expected.parameters and "counted by torch" in cost["gmac_note"] and "attention" in cost["gmac_note"]
    unknown = {"gmac_norm", "gmac_selector", "kept_share", "kept_per_block", "seconds_encoder", "speedup_encoder"}
    unknown |= {"memory_encoder_mib", *(name for name in COST if name.endswith("_quartiles") or "paper_size" in name)}
    assert set(COST) - set(cost) == unknown | {"kept_share_uncalibrated", "seconds_backbone", "gmac_head"}
    assert cost["seconds_total"] > 0 and min(cost["throughput_mean"]) > 0 and cost["throughput_speedup"] == [None, None]
    assert made["metrics"].keys() == {"top1", "top1_se"}
    start, mark = made["notes"]
    assert start == "starts from random weights" and mark.startswith("untrained: ") and "of the head are random" in mark
    assert not list(cli.folder.glob("results/rows/*/model.safetensors"))  # its weights are the file it came from


def test_a_sweep_with_such_rows_has_a_table_and_a_plot(cli):  # noqa: F811
    others = (word for word in SMALL if not word.startswith("backbone.model"))
    code, out, err = cli("-m", *others, "backbone.model=convnextv2_atto,regnety_002", "measure=[accuracy,cost]")
    assert (code, err) == (0, "") and "convnextv2_atto" in out and "GMAC of convnextv2_atto, regnety_002: counted by torch" in out
    assert (cli.tables() / "plot.png").is_file()


def test_a_file_of_weights_is_judged(cli, tmp_path):  # noqa: F811
    """A network with its own weights finds the classes: channel means of flat pictures, read by a head of one pixel's colour."""
    from PIL import Image

    root = write_folder(tmp_path / "set", dict.fromkeys(("a", "b", "c"), 2))
    for path in root.rglob("*.*"):
        Image.fromarray(np.full((64, 64, 3), {"a": 0, "b": 128, "c": 255}[path.parent.name], dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    model = timm.create_model("convnextv2_atto", num_classes=3).eval()
    images = torch.stack([torch.full((3, 64, 64), v) for v in (0.0, 128 / 255, 1.0)])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        features = model.forward_head(model.forward_features((images - mean) / std), pre_logits=True)
        model.head.fc.weight.copy_(torch.linalg.pinv(features - features.mean(0)).T)
        model.head.fc.bias.copy_(-model.head.fc.weight @ features.mean(0))
    save_weights(tmp_path / "net.safetensors", model)
    run = (*SMALL, "data=imagefolder", f"data.root={root}", f"init={tmp_path / 'net.safetensors'}", "measure=[accuracy]")
    assert cli(*run)[0] == 0
    (made,) = cli.rows()
    assert made["metrics"]["top1"] == 100 and made["notes"][0] == "starts from net.safetensors"
    assert [note.split(" with ")[0] for note in made["notes"][1:]] == ["images are seen"]


def test_weights_of_another_network_are_refused_with_all_keys(cli, tmp_path):  # noqa: F811
    save_weights(tmp_path / "net.safetensors", timm.create_model("convnextv2_atto", num_classes=8, depths=(2, 2, 5, 2)))
    code, _, err = cli(*SMALL, f"init={tmp_path / 'net.safetensors'}")
    missing = [k for k in timm.create_model("convnextv2_atto").state_dict() if k.startswith("stages.2.blocks.5.")]
    assert code == 2 and f"net.safetensors is not of this ConvNeXt: {len(missing)} keys differ: missing {missing[0]}" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("method=evit",), "selector is 'evit'; allowed: none. To prune a ViT: task=classification backbone=timm"),
        (("training.iterations=3",), "training.iterations is 3; allowed: 0"),
        (("init=pretrained",), "init is 'pretrained'; allowed: scratch"),
        (("data.side=96",), "data.side is 96, backbone.img_size 64; allowed: the same"),
        (("backbone.model=convnextv3",), "backbone.model is 'convnextv3', which is not a timm model"),
        (("+backbone.options={width: 3}",), r"backbone.options is \{'width': 3\}, and convnextv2_atto does not take it"),
        (("backbone.model=maxvit_pico_rw_256", "backbone.img_size=40"), "backbone.img_size is 40, which maxvit_pico_rw_256 does not take"),
        (("+backbone.depth=3",), "backbone.depth is not a setting"),
        (("+task.flop=true",), "did you mean 'flip'"),
    ],
)
def test_what_a_model_as_it_is_does_not_do_is_refused(more, words):
    with pytest.raises(InvalidConfig, match=words):
        validate(resolve(compose([*SMALL, *more])), files=False)


def test_a_model_and_its_name():
    with pytest.raises(InvalidConfig, match="backbone.model is not set; allowed with task=timm: backbone=timm backbone.model=NAME"):
        validate(resolve(compose(["task=timm", "scale=smoke"])), files=False)
    config = resolve(compose([*SMALL]))
    assert config["label"] == "convnextv2_atto" and validate(config, files=False).startswith("dense: convnextv2_atto as timm has it at 64")
    assert build_timm({"model": "vit_tiny_patch16_224", "img_size": 64}).pos_embed.shape == (1, 17, 192)
    assert list(get("task", "timm")().pictures(torch.nn.Identity(), config)) == []


def test_timed_alone_in_turn_over_images_and_batches(monkeypatch):
    """The k-th timed pass takes k seconds."""
    seen = []

    def timer(call):
        call()
        seen.append(len(call.args[0]))
        return float(len(seen))

    monkeypatch.setattr(speed, "_thread_seconds", timer)
    calls, images = [], [torch.zeros(1), torch.ones(1)]
    found = seconds_alone(calls.append, images, CPU, SpeedPlan(warmup=2, repeats=2))
    assert found["seconds_total"] == median((1, 2, 3, 4)) and [float(c) for c in calls] == [0, 0, 0, 0, 1, 1]
    assert found["seconds_note"].endswith("batch 1, median of 2 images x 2 passes after 2 to warm up")
    plan = ThroughputPlan(batch_sizes=(1, 4), batches=2, passes=1, warmup=1)
    seen.clear()
    found = over_batches((torch.nn.Identity(),), lambda size, number: torch.zeros(size), plan, CPU)
    assert seen == [1, 1, 4, 4] and found["throughput_speedup"] == [None, None]
    assert found["throughput_mean"] == pytest.approx([(1 + 1 / 2) / 2, (4 / 3 + 4 / 4) / 2]) and "in turn" not in found["throughput_note"]


def test_parameters_are_those_that_are_deployed():
    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    plan = {"name": "explicit", "keep": {1: 8, 2: 4}}
    dense = sum(p.numel() for p in build_vit(vit, 5).parameters())
    assert parameters_of(prune(build_vit(vit, 5))) == parameters_of(torch.nn.ModuleDict({"net": prune(build_vit(vit, 5))})) == dense
    router = prune(build_vit(vit, 5), {"name": "cropr", "queries": 6}, "remove", plan)
    assert parameters_of(router) == dense + 2 * 24 and parameters_of(router) == sum(p.numel() for p in router.deploy().parameters())


def test_rows_of_every_task_know_their_parameters(cli):  # noqa: F811
    assert cli("task=classification", "scale=smoke", "init=scratch", "training.iterations=0")[0] == 0
    (made,) = cli.rows()
    (path,) = cli.folder.glob("results/rows/*/model.safetensors")
    assert made["cost"]["parameters"] == sum(v.numel() for v in read_weights(path).values())
    older = copy.deepcopy(read_result(path.with_name("result.json")))
    older["cost"].pop("parameters")
    check(older)  # rows from before there was such a field stay good
    with pytest.raises(CheckpointMismatch):
        read_weights(path.with_name("nothing.pth"))
