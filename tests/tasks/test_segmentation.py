"""The segmentation task."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from tests.data.test_semantic import write
from tests.helpers.fakes import cli  # noqa: F401
from tests.helpers.image_sets import real
from tests.measure.test_miou import by_loop
from tokenprune.errors import DatasetError, InvalidConfig
from tokenprune.registry import get
from tokenprune.tasks.segmentation.task import predicted
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig

CONFIG = {
    "selector": {"name": "none"}, "treatment": {"name": "none"}, "schedule": {"name": "none"},
    "cls": "learned", "execution": "auto", "losses": {},
    "backbone": {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3},
    "task": {"name": "segmentation", "batch_size": 3, "cost_images": 2, "speed_images": 2, "bootstrap": 5,
             "throughput": {"batch_sizes": [1, 2], "batches": 2}},
    "data": {"name": "shapes", "side": 64, "train_size": 8, "val_size": 5, "seed": 0},
    "training": {"batch_size": 4, "seed": 0},
}  # fmt: skip
CROPR = {"selector": {"name": "cropr", "queries": "patches"}, "treatment": {"name": "last_layer_fusion"}, "losses": {"auxiliary": {}},
         "schedule": {"name": "per_block", "remove": 10}}  # fmt: skip


def new(**changes):
    cfg = {**copy.deepcopy(CONFIG), **changes}
    task = get("task", "segmentation")()
    torch.manual_seed(0)
    return task, cfg, task.build_model(cfg)


@pytest.mark.system
@pytest.mark.parametrize("changes", [{}, CROPR], ids=("dense", "cropr"))
def test_learns_a_few_pictures_by_heart(tmp_path, changes):
    task, cfg, model = new(**changes, data={**CONFIG["data"], "train_size": 4})
    cfg["task"] = {**cfg["task"], "augment": {"flip": False}}
    before = task.evaluate(model, cfg)["miou"]
    recipe = TrainingConfig(iterations=120, batch_size=4, lr=2e-3, warmup=5)
    report = fit(model, lambda start: task.train_batches(cfg, start), task.losses, recipe, tmp_path)
    task.pixels._splits["val"] = task.pixels.split("train")
    after = task.evaluate(model, cfg)
    assert after["miou"] > 40 > 15 > before and report.losses["loss_seg"] < 0.5 and after["pixel_accuracy"] > 85
    if changes:
        assert report.losses["loss_auxiliary"] < 4, "two modules, 2 log 9 = 4.4 at chance"


def test_a_picture_is_cut_out_of_its_padding_and_judged_at_its_own_size():
    """By hand: shares of the part inside, a column of pixels between two, and only then the largest."""
    logits = torch.zeros(2, 4, 4)
    logits[0, :2, 0], logits[1, :2, 1] = 1.0, 9.0
    logits[:, :, 2:], logits[:, 2:] = 50.0, torch.tensor([90.0, 0.0]).view(2, 1, 1)  # padding would win everywhere
    found = predicted(logits, (2, 2), (4, 4))
    shares = logits.softmax(0)[1, 0, :2]  # of class 1: 0.27 and 0.9999
    at = [shares[0], 0.75 * shares[0] + 0.25 * shares[1], 0.25 * shares[0] + 0.75 * shares[1], shares[1]]
    assert found.tolist() == [[int(share > 0.5) for share in at]] * 4
    mixed = 0.75 * logits[:, 0, 0] + 0.25 * logits[:, 0, 1]
    assert mixed[1] > mixed[0] and at[1] < 0.5, "mixing logits instead would say something else"
    assert torch.equal(predicted(logits, (2, 2), (2, 2)), logits[:, :2, :2].argmax(0))


class Oracle(nn.Module):
    """Says of a picture whose pixels are 50 times its labels what these are, every third picture shifted by one class."""

    def __init__(self):
        super().__init__()
        self.place, self.number = nn.Parameter(torch.zeros(())), 0

    def forward(self, images):
        pixels = ((images[:, 0] * 0.229 + 0.485) * 255 / 50).round().long().clamp(0, 2)
        wrong = (torch.arange(self.number, self.number + len(images)) % 3 == 2).long().view(-1, 1, 1)
        self.number += len(images)
        return 9.0 * nn.functional.one_hot((pixels + wrong) % 3, 3).permute(0, 3, 1, 2)


def test_the_split_is_judged_as_one_at_the_pictures_own_sizes(tmp_path):
    from PIL import Image

    rng, truths = np.random.default_rng(0), []
    for i, (h, w) in enumerate(((64, 48), (32, 64), (128, 128), (64, 64))):  # blocks, so that halving and doubling lose nothing inside
        values = rng.integers(0, 3, (h // 16, w // 16)).repeat(16, 0).repeat(16, 1)
        write(tmp_path, values, f"{i}", "val")
        Image.fromarray((50 * values).astype(np.uint8)).convert("RGB").save(tmp_path / "images" / "val" / f"{i}.png")
        truths.append(torch.from_numpy(values))
    task, cfg = get("task", "segmentation")(), copy.deepcopy(CONFIG)
    cfg["data"] = {"name": "semantic", "root": str(tmp_path), "classes": ["a", "b", "c"], "side": 64}
    found = task.evaluate(Oracle(), cfg)
    order = [int(labels.stem) for _, labels in task.pixels.split("val").files]
    pairs = [(truths[n], (truths[n] + int(place % 3 == 2)) % 3) for place, n in enumerate(order)]
    miou, accuracy = by_loop(pairs, 3)
    assert found["miou"] == pytest.approx(miou, abs=3) and found["pixel_accuracy"] == pytest.approx(accuracy, abs=2)  # rims of blocks
    assert 0 < found["miou_se"] < 50 and miou < 95


def test_cost_is_that_of_the_deployed_model_with_its_head_apart():
    task, cfg, model = new(**CROPR)
    cost = task.cost(model, cfg)
    # live in blocks 0 to 3: 64, 53, 43, and 64, where all return
    assert cost["gmac_selector"] * 1e9 == pytest.approx((64 + 53) * 48) and cost["gmac_head"] * 1e9 == 64 * 48 * 9
    assert cost["kept_per_block"] == pytest.approx([1, 53 / 64, 43 / 64, 1], abs=1e-4)
    assert cost["seconds_total"] > 0 and cost["seconds_backbone"] is None
    assert all(len(s.query) == 64 for s in model.pruned.selectors.values()), "the model itself can go on training"
    _, plain, full = new()
    dense = task.cost(full, plain)
    assert dense["gmac_total"] > cost["gmac_total"] and dense["gmac_selector"] == 0


def test_throughput_is_of_the_whole_model():
    task, cfg, model = new(**CROPR)
    found = task.throughput(model, cfg)
    assert found["throughput_batch"] == [1, 2] and all(v > 0 for v in (*found["throughput_mean"], *found["throughput_speedup"]))
    assert found["throughput_note"].startswith("whole model")


def test_pictures_have_labels_predictions_and_tokens(tmp_path):
    write(write(tmp_path, np.zeros((48, 96)), "a", "val"), np.ones((96, 48)), "b", "val")
    data = {"name": "semantic", "root": str(tmp_path), "classes": ["a", "b"], "side": 64}
    task, cfg, model = new(**CROPR, data=data)
    found = list(task.pictures(model.eval(), cfg))
    assert {p.pixels.shape for p in found} == {(32, 64, 3), (64, 32, 3)} and {p.used.shape for p in found} == {(4, 4, 8), (4, 8, 4)}
    for picture in found:
        assert picture.predictions.values.shape == picture.truth.values.shape == picture.pixels.shape[:2]
        assert picture.truth.classes == ("a", "b") and set(picture.predictions.values.flatten()) <= {0, 1}
        assert len(set(picture.truth.values.flatten())) == 1 and picture.used[0].all() and not picture.used[2].all()
    assert next(task.pictures(model, cfg, [1], predict=False)).predictions is None


def test_batches_depend_on_the_iteration_alone():
    task, cfg, _ = new()
    whole, later = list(islice(task.train_batches(cfg, 0), 5)), list(islice(task.train_batches(cfg, 3), 2))
    assert all(torch.equal(a, b) for one, two in zip(whole[3:], later, strict=True) for a, b in zip(one, two, strict=True))
    images, labels = whole[0]
    assert images.shape == (4, 3, 64, 64) and images.dtype == torch.float32 and labels.shape == (4, 64, 64) and labels.dtype == torch.int64


def test_calibration_pictures_are_those_of_the_test():
    task, cfg, model = new()
    encode, batches = task.calibration(model, cfg, 7)
    assert [len(b) for b in batches] == [3, 3, 1] and encode(batches[0]).map.shape == (3, 64, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": {"polcy": "light"}}, "did you mean 'policy'"),
        ({"augment": {"policy": "heavy"}}, "policy is 'heavy', allowed are light, segmenter"),
        ({"augment": {"ratio": [2.0, 0.5]}}, "ratio is .* allowed are two values"),
        ({"augment": {"most": 0.0}}, "most is 0.0"),
        ({"std": [0.5, 0.5, 0.0]}, "std is .* above 0"),
        ({"mean": [127.5] * 3}, "divide by 255"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"bootstrap": 1}, "bootstrap is 1"),
        ({"cost_images": -1}, "0 or more"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(InvalidConfig, match=message):
        get("task", "segmentation").check({"task": {"name": "segmentation", **options}})


REAL = {"camvid": "camvid", "coco_semantic": "coco_mini"}


@pytest.mark.system
@pytest.mark.parametrize("data", REAL)
def test_a_smoke_row_of_real_pictures(data, cli):  # noqa: F811
    if not real(REAL[data]).is_dir():
        pytest.skip(f"{REAL[data]} is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout")
    code, out, err = cli("task=segmentation", "method=cropr", "scale=smoke", f"data={data}", f"data.root={real(REAL[data])}")
    assert code == 0 and "mIoU" in out, err
    dense, row = sorted(cli.rows(), key=lambda r: r["method"] == "cropr")
    assert row["status"] == dense["status"] == "ok" and 0 <= row["metrics"]["miou"] < 30 and row["data"] == "semantic"
    assert row["cost"]["gmac_total"] < dense["cost"]["gmac_total"]
    assert row["cost"]["gmac_head"] == pytest.approx(64 * 48 * {"camvid": 11, "coco_semantic": 133}[data] / 1e9)


def masks(root, values, split="val"):
    """Write four pictures whose masks have these values in their left and right halves."""
    for i in range(4):
        write(root, np.repeat(np.array([values], dtype=np.uint8), 32, 0).repeat(64 // len(values), 1), f"{i}", split)
    return root


def folder_of(root, **changes):
    return {"name": "semantic", "root": str(root), "classes": ["ground", "thing"], "side": 64, **changes}


def test_masks_of_0_and_255_are_told_apart_from_classes(tmp_path, capsys):
    """With the default of data.ignore the whole foreground is ignored, and the mIoU says nothing."""
    task, cfg, model = new(data=folder_of(masks(tmp_path, [0, 255]), ignore=[255]))
    task.evaluate(model, cfg)
    (note,) = task.notes(cfg)
    assert note == "50.0% of the pixels of val are ignored; 1 of 2 classes never occur in val and count only if they are predicted: thing"
    assert f"warning: {note}; data.ignore, data.offset and data.classes say" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "share", "warned"), [([0, 1], "0.0%", False), ([0, 1, 0, 255], "25.0%", False),
                                                         ([0, 1, 255, 255], "50.0%", True)])  # fmt: skip
def test_the_share_of_ignored_pixels_is_noted_and_warned_of_if_it_is_large(tmp_path, capsys, values, share, warned):
    task, cfg, model = new(data=folder_of(masks(tmp_path, values), ignore=[255]))
    task.evaluate(model, cfg)
    assert task.notes(cfg) == [f"{share} of the pixels of val are ignored"]
    assert ("warning" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_any_class_is_refused_before_anything_runs(cli, tmp_path, split):  # noqa: F811
    for name in ("train", "val"):
        masks(tmp_path / "set", [255] if name == split else [0, 1], name)
    command = ("task=segmentation", "data=semantic", f"data.root={tmp_path / 'set'}", "data.classes=[ground,thing]", "scale=smoke")
    code, out, err = cli(*command, "method=evit")
    assert code == 2 and f"every pixel of the split '{split}' is ignored" in err and err.count("\n") == 1 and "running" not in out
    with pytest.raises(DatasetError, match="every pixel of the split"):
        get("task", "segmentation")()._pixels({**CONFIG, "data": folder_of(tmp_path / "set", ignore=[255])}).split(split)


def test_the_row_holds_the_notes_on_its_labels(cli, tmp_path):  # noqa: F811
    for name in ("train", "val"):
        masks(tmp_path / "set", [0, 255], name)
    command = ("task=segmentation", "data=semantic", f"data.root={tmp_path / 'set'}", "data.classes=[ground,thing]", "scale=smoke")
    code, _, err = cli(*command, "init=scratch", "training.iterations=1")
    (row,) = cli.rows()
    assert code == 0 and any(note.startswith("50.0% of the pixels of val are ignored; 1 of 2 classes") for note in row["notes"])
    assert "warning: 50.0% of the pixels of val are ignored" in err
