"""The classification task."""

import copy
from itertools import islice
from statistics import stdev

import pytest
import torch

from tests.conf.test_configs import METHODS
from tests.helpers.fakes import cli  # noqa: F401
from tests.helpers.image_sets import both_splits, pack, real, write_folder
from tokenprune.backbones.vit import build_vit
from tokenprune.errors import InvalidConfig
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.classification.settings import read_recipe
from tokenprune.tasks.classification.task import patch_labels
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils.checkpoints import load_dense, read_metadata, read_weights, save_weights
from tokenprune.utils.paths import weights_path

CONFIG = {
    "selector": {"name": "none"}, "treatment": {"name": "none"}, "schedule": {"name": "none"},
    "cls": "learned", "execution": "auto", "losses": {},
    "backbone": {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "task": {"name": "classification", "batch_size": 7, "cost_images": 3, "speed_images": 2},
    "data": {"name": "shapes", "side": 64, "train_size": 16, "val_size": 10, "seed": 0},
    "training": {"batch_size": 8, "seed": 0},
}  # fmt: skip
PRUNED = {"selector": {"name": "svit"}, "treatment": {"name": "preserve"}, "losses": {"ratio": {}},
          "schedule": {"name": "stages", "blocks": [1], "keep_rate": 0.5}}  # fmt: skip


def new(**changes):
    cfg = {**copy.deepcopy(CONFIG), **changes}
    task = get("task", "classification")()
    torch.manual_seed(0)
    return task, cfg, task.build_model(cfg)


def test_learns_a_few_pictures_by_heart(tmp_path):
    task, cfg, model = new()
    cfg["task"] |= {"flip": False, "vertical_flip": False, "channels": False}
    before = task.evaluate(model, cfg)["top1"]
    recipe = TrainingConfig(iterations=100, batch_size=8, lr=2e-3, warmup=5)
    report = fit(model, lambda start: task.train_batches(cfg, start), task.losses, recipe, tmp_path)
    task.images._splits["val"] = task.images.split("train")
    after = task.evaluate(model, cfg)
    assert after["top1"] >= 90 > before and report.losses["loss_cls"] < 0.5


def test_standard_error_is_binomial():
    task, cfg, model = new()
    metrics = task.evaluate(model, cfg)
    share = metrics["top1"] / 100
    assert metrics["top1"] % 10 == pytest.approx(0, abs=1e-6)  # ten images, the last batch of three included
    assert metrics["top1_se"] == pytest.approx(100 * (share * (1 - share) / 10) ** 0.5)


def test_the_encoders_losses_arrive_and_everything_learns():
    task, cfg, model = new(**PRUNED)
    losses = task.losses(model.train(), next(task.train_batches(cfg, 0)))
    assert set(losses) == {"loss_cls", "loss_ratio"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_cost_of_a_pruned_model_is_lower():
    task, cfg, dense = new()
    _, pruned_cfg, pruned = new(selector={"name": "evit"}, treatment={"name": "remove"}, schedule=PRUNED["schedule"])
    full, less = task.cost(dense, cfg), task.cost(pruned, pruned_cfg)
    assert less["gmac_total"] < full["gmac_total"] and less["kept_share"] < full["kept_share"] == 1
    assert full["kept_per_block"] == [1.0] * 3 and full["seconds_encoder"] > 0


def test_batches_depend_on_the_iteration_alone():
    task, cfg, _ = new()
    whole = list(islice(task.train_batches(cfg, 0), 5))
    later = list(islice(task.train_batches(cfg, 3), 2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[3:], later, strict=True))
    assert whole[0][0].shape == (8, 3, 64, 64) and whole[0][0].dtype == torch.uint8


def test_patch_labels_by_the_share_of_object_pixels():
    maps = torch.full((1, 8, 8), -1)
    maps[0, :4, :4], maps[0, 4:6, 4:8] = 3, 3
    maps[0, 4, 0], maps[0, 4:, 1] = 3, 5  # a single pixel, and another class: not this image's object
    assert patch_labels(maps, torch.tensor([3]), 4, none=9).tolist() == [3, 9, 9, 3]


def test_token_labels_teach_every_patch():
    task, cfg, model = new(task={**CONFIG["task"], "token_labels": 1.0})
    losses = task.losses(model.train(), next(task.train_batches(cfg, 0)))
    assert set(losses) == {"loss_cls", "loss_tokens"} and model.backbone.head.out_features == 9
    losses["loss_tokens"].backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_a_misspelt_setting_is_refused():
    with pytest.raises(InvalidConfig, match="did you mean 'flip'"):
        new(task={"name": "classification", "flipp": True})


def test_soft_targets_and_augmented_images_are_learned_from():
    task, cfg, model = new(task={**CONFIG["task"], "augment": {}, "mix": {}})
    images, targets = next(task.train_batches(cfg, 0))
    assert images.dtype == torch.float32 and targets.shape == (8, 8)
    losses = task.losses(model, (images, targets))
    expected = -(targets * model(images).log_softmax(1)).sum(1).mean()
    assert losses["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-5)


class Answers(torch.nn.Module):
    """Ranks the classes of 12 so that the right one of image i, whose pixels are all 20 * label, comes in place i % 12."""

    def __init__(self):
        super().__init__()
        self.place, self.seen = torch.nn.Parameter(torch.zeros(())), 0

    def forward(self, images):
        found = []
        for image in images:
            label = round((image[0, 0, 0].item() * 0.229 + 0.485) * 255 / 20)
            rest = [c for c in range(12) if c != label]
            rest.insert(self.seen % 12, label)
            found.append(-torch.tensor(rest).argsort().float())
            self.seen += 1
        return torch.stack(found)


def test_top5_of_many_classes(tmp_path):
    import numpy as np
    from PIL import Image

    for label in range(12):
        folder = tmp_path / "val" / f"{label:02d}"
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8, 3), 20 * label, dtype=np.uint8)).save(folder / f"{i}.png")
    data = {"name": "imagefolder", "root": str(tmp_path), "side": 32}
    task, cfg = get("task", "classification")(), {**copy.deepcopy(CONFIG), "data": data}
    metrics = task.evaluate(Answers(), cfg)
    assert metrics == pytest.approx({
        "top1": 100 / 12, "top1_se": 100 * (1 / 12 * 11 / 12 / 24) ** 0.5, "top5": 500 / 12, "top5_se": 100 * (5 / 12 * 7 / 12 / 24) ** 0.5,
    })  # fmt: skip
    assert set(new()[0].evaluate(new()[2], copy.deepcopy(CONFIG))) == {"top1", "top1_se"}  # shapes have eight classes


def test_pictures_show_what_the_model_saw(tmp_path):
    root = write_folder(tmp_path, {"a": 2, "b": 2})
    task, cfg, model = new(data={"name": "imagefolder", "root": str(root), "side": 48})
    pictures = list(task.pictures(model.eval(), cfg, [0, 3, 9]))
    assert [p.number for p in pictures] == [0, 3] and all(p.pixels.shape == (48, 48, 3) and p.grid == (3, 3) for p in pictures)


SMOKE = ("scale=smoke", "task=classification", "data=imagefolder")


def test_a_run_on_image_folders_and_the_same_on_zips(cli, tmp_path):  # noqa: F811
    root = both_splits(tmp_path / "set")
    for split in ("train", "val"):
        pack(root / split, tmp_path / "zips" / f"{split}.zip")
    rows = []
    for where in (root, tmp_path / "zips"):
        code, _, err = cli(*SMOKE, "method=svit", "init=scratch", f"data.root={where}", "+training.ema=0.5", f"results_dir={where.name}")
        assert (code, err) == (0, "")
        (path,) = (cli.folder / where.name / "rows").iterdir()
        rows.append(read_weights(path / "model.safetensors"))
    assert all(torch.equal(rows[0][k], rows[1][k]) for k in rows[0])


@pytest.mark.system
def test_a_file_with_a_head_starts_a_run_of_no_iterations(cli, tmp_path):  # noqa: F811
    """A root with a val split alone serves. With another number of classes the head is random, and a random head is not judged."""
    root = write_folder(tmp_path / "set", dict.fromkeys(("a", "b", "c"), 2))
    torch.manual_seed(3)
    vit = build_vit(resolve(compose(["scale=smoke"]))["backbone"], num_classes=3)
    save_weights(tmp_path / "vit.safetensors", vit, dtype=torch.float16)
    command = (*SMOKE, f"data.root={root}", f"init={tmp_path / 'vit.safetensors'}", "training.iterations=0")
    assert cli(*command)[0] == 0
    (row,) = cli.rows()
    assert row["notes"] == ["starts from vit.safetensors"] and row["metrics"].keys() == {"top1", "top1_se"}
    weights = read_weights(cli.folder / "results" / "rows" / row["key"] / "model.safetensors")
    assert torch.allclose(weights["backbone.head.weight"], vit.head.weight, atol=1e-3)
    code, _, err = cli("scale=smoke", "task=classification", *command[-2:])
    assert code == 2 and "which brings no head that fits, and training.iterations is 0: give init=FILE with a head" in err
    said = "the head starts from random weights: the file's is of 3 outputs, the model's has 8"
    for more in ("measure=[cost]", "training.iterations=1"):
        assert cli("scale=smoke", "task=classification", *command[-2:], more)[0] == 0
    assert [said in row["notes"] for row in cli.rows() if row["status"] == "ok" and row["data"] == "shapes"] == [True, True]


@pytest.mark.system
def test_the_classes_of_a_head_are_compared_with_those_of_the_data(cli, tmp_path):  # noqa: F811
    """A file of this project holds their names. The same names in another order would give wrong labels in silence."""
    root = both_splits(tmp_path / "set", ("a1", "a2", "a10"))
    command = ("task=classification", "data=imagefolder", "scale=smoke", "results_dir=results")
    assert cli(*command, f"data.root={root}", "data.order=natural", "init=scratch", "training.iterations=1")[0] == 0
    (path,) = cli.folder.glob("results/rows/*/model.safetensors")
    judge = (*command, f"init={path}", "training.iterations=0")
    assert cli(*judge, f"data.root={root}", "data.order=natural")[0] == 0
    code, _, err = cli(*judge, f"data.root={root}")
    assert code == 2 and "output 1 of the head in model.safetensors is 'a2', and label 1 of the data is 'a10': the same classes in" in err
    other = both_splits(tmp_path / "other", ("a1", "a10", "b"))
    code, _, err = cli(*judge, f"data.root={other}")
    assert code == 2 and "the head is of other classes, and training.iterations is 0" in err
    assert cli(*command, f"init={path}", "training.iterations=1", f"data.root={other}")[0] == 0
    assert any("the head starts from other classes" in note for row in cli.rows() for note in row["notes"])


@pytest.mark.parametrize("said", ["200", "[1, 2]", "no list"])
def test_other_programs_may_write_such_a_note_in_another_form(cli, tmp_path, said):  # noqa: F811
    root = write_folder(tmp_path / "set", dict.fromkeys(("a", "b", "c"), 2))
    vit = build_vit(resolve(compose(["scale=smoke"]))["backbone"], num_classes=3)
    save_weights(tmp_path / "vit.safetensors", vit, metadata={"class_names": said, "classes": said})
    code, _, err = cli(*SMOKE, f"data.root={root}", f"init={tmp_path / 'vit.safetensors'}", "training.iterations=0", "measure=[accuracy]")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_random_head_of_another_task_is_not_judged(cli, tmp_path, task):  # noqa: F811
    if task == "detection":
        pytest.importorskip("detectron2")
    vit = build_vit(resolve(compose(["scale=smoke"]))["backbone"], num_classes=3)
    save_weights(tmp_path / "vit.safetensors", vit)
    command = (f"task={task}", "scale=smoke", f"init={tmp_path / 'vit.safetensors'}", "training.iterations=0")
    code, _, err = cli(*command)
    assert code == 2 and "which brings no head that fits, and training.iterations is 0" in err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_judged_without_training(cli, method):  # noqa: F811
    code, out, err = cli("scale=smoke", "task=classification", f"method={method}", "init=scratch", "training.iterations=0")
    assert (code, err) == (0, "") and "the accuracy is that of random weights" in out
    (row,) = cli.rows()
    assert row["status"] == "ok" and 0 <= row["metrics"]["top1"] <= 100 and row["timing"]["train_s"] < 1


TINY_IMAGENET = real("vit_tiny_tin200")
VIEW = ("task.view.interpolation=bilinear", "task.view.mean=[0.5,0.5,0.5]", "task.view.std=[0.5,0.5,0.5]")


@pytest.mark.system
@pytest.mark.skipif(
    not TINY_IMAGENET.is_dir(), reason="vit_tiny_tin200 is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout"
)
def test_real_weights_on_real_images():
    """69.45 % on all 2000 images: 100 of them are within three standard errors."""
    from tokenprune.backbones.weights import load_vit

    config = resolve(compose(["task=classification", "data=imagefolder", "backbone=vit_tiny", f"data.root={TINY_IMAGENET}", *VIEW,
                              "data.max_val=100"]))  # fmt: skip
    task = get("task", "classification")()
    model = task.build_model(config)
    (weights,) = TINY_IMAGENET.glob("*.safetensors")
    assert load_vit(model, weights) == []
    metrics = task.evaluate(model, config)
    assert abs(metrics["top1"] - 69.45) < 3 * 4.6 and metrics["top5"] > 80


def test_the_classifier_that_ships_tells_the_classes_apart():
    config = resolve(compose(["task=classification", "data.val_size=40"]))
    path, task = weights_path(config["init_weights"]), get("task", "classification")()
    model = task.build_model(config)
    load_dense(model, path)
    assert path.stat().st_size < 3_000_000 and read_metadata(path)["run"] == "Dense (classification, seed 0)"
    assert task.evaluate(model, config)["top1"] > 60, "8 classes: chance is 12.5"


def test_an_evaluation_runs_in_the_precision_of_its_view(monkeypatch):
    view = ["task.view.crop_pct=1.0", "data.val_size=4", "task.batch_size=4"]
    seen = {}
    for dtype in ("float32", "half", "bfloat16"):
        config = resolve(compose(["task=classification", *view, f"task.view.dtype={dtype}"]))
        task = get("task", "classification")()
        model = task.build_model(config)
        load_dense(model, weights_path(config["init_weights"]))
        model.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda _, given, out, dtype=dtype: seen.update({dtype: out.dtype}))
        assert task.evaluate(model, config)["top1"] >= 0
    assert seen == {"float32": torch.float32, "half": torch.float32, "bfloat16": torch.bfloat16}  # half is for GPUs
    with pytest.raises(InvalidConfig, match="task.view.dtype is 'fp16', allowed are float32, bfloat16, float16, half"):
        read_recipe(resolve(compose(["task=classification", "task.view.dtype=fp16"])))


def test_drawn_gates_are_judged_over_several_draws():
    """Each draw of an untrained model keeps other tokens; the result is the mean over the draws, with the spread between them."""
    draws = {**CONFIG["task"], "draws": 3}
    task, cfg, model = new(**{**PRUNED, "selector": {"name": "svit", "eval_mode": "sample"}, "task": draws})
    found = task.evaluate(model, cfg)
    alone = []
    for number in (1, 2, 0):
        for selector in model.selectors.values():
            selector.redraw(number)
        alone.append(task._judged(model, cfg)["top1"])
    assert found["top1"] == pytest.approx(sum(alone) / 3) and found["top1_spread"] == pytest.approx(stdev(alone))
    assert all(selector.number == 0 for selector in model.selectors.values())
    with pytest.raises(InvalidConfig, match=r"task\.draws is 0, allowed are 1 and more"):
        new(task={**CONFIG["task"], "draws": 0})
