"""What is wrong with a data set is said before anything runs: other labels, other classes, a split that is not there."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.test_semantic import write as write_semantic
from tests.helpers.fakes import cli  # noqa: F401
from tests.helpers.image_sets import both_splits, pack, write_folder
from tokenprune.errors import DatasetError
from tokenprune.registry import get
from tokenprune.tasks.data_checks import check_classes, check_data

NAMES = {3: "cat", 5: "dog", 8: "owl"}


def write_coco(root, val=None, train=None):
    """Write a picture a split, with an object of each category: {id: name}."""
    for split, categories in (("train2017", train or NAMES), ("val2017", val or NAMES)):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(root / split / "a.png")
        shapes = [[10.0 + k, 12, 40, 12, 40, 42, 10, 42] for k in range(len(categories))]
        content = {
            "images": [{"id": 7, "file_name": "a.png", "height": 64, "width": 96}],
            "categories": [{"id": key, "name": name} for key, name in categories.items()],
            "annotations": [
                {"id": k + 1, "image_id": 7, "category_id": key, "bbox": [10, 12, 30, 30], "iscrowd": 0, "segmentation": [shapes[k]]}
                for k, key in enumerate(categories)
            ],
        }  # fmt: skip
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def run_of(root, name="coco", task="detection", iterations=1):
    return {"data": {"name": name, "root": str(root)}, "task": {"name": task}, "training": {"iterations": iterations}, "init": "scratch"}


@pytest.mark.parametrize("opened", [("val",), ("train", "val"), ("val", "train")])
def test_renumbered_categories_of_val_are_mapped_by_their_names(tmp_path, opened):
    """Whichever split is opened first; the ids of the results stay those of val."""
    run = run_of(write_coco(tmp_path, val={1: "owl", 2: "cat", 9: "dog"}))
    check_data(run, "detection")
    task = get("task", "detection")()
    for split in opened:
        task._data(run, split)
    val = task._data(run, "val")
    assert val.classes == task._data(run, "train").classes == ("cat", "dog", "owl") and val.category_ids == (2, 9, 1)
    assert sorted(zip(val[0].instances.labels.tolist(), [a["category_id"] for a in val.coco_json()["annotations"]], strict=True)) == [
        (0, 2), (1, 9), (2, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("command", [("validate_only=true",), ()])
@pytest.mark.parametrize(
    ("val", "words"),
    [
        ({3: "cat", 5: "dog"}, "3 in train, 2 in val; only train has owl"),
        ({**NAMES, 9: "emu"}, "3 in train, 4 in val; only val has emu"),
        ({3: "cat", 5: "dog", 8: "emu"}, "only train has owl; only val has emu"),
        ({3: "cat", 5: "dog", 8: "owl", 9: "owl"}, "'owl' occurs more than once"),
    ],
)
def test_other_categories_are_refused_before_anything_runs(cli, tmp_path, val, words, command):  # noqa: F811
    root = write_coco(tmp_path / "coco", val=val)
    code, out, err = cli("data=coco", f"data.root={root}", "scale=smoke", *command)
    assert code == 2 and words in err and err.count("error:") == 1 and "running" not in out
    with pytest.raises(DatasetError, match="in train"):
        get("task", "detection")()._data(run_of(root), "val")


def test_other_class_folders_are_refused_before_anything_runs(cli, tmp_path):  # noqa: F811
    root = write_folder(tmp_path / "set", {"a": 2, "b": 2}, split="train")
    write_folder(root, {"a": 2, "c": 2}, split="val")
    for command in (("validate_only=true",), ()):
        code, out, err = cli("task=classification", "data=imagefolder", f"data.root={root}", "scale=smoke", *command)
        assert code == 2 and "only train has b; only val has c" in err and "running" not in out


def test_splits_of_equal_classes_pass(tmp_path):
    root = both_splits(tmp_path / "set")
    (root / "val" / ".ipynb_checkpoints").mkdir()
    check_data(run_of(root, "imagefolder", "classification"), "classification")
    packed = pack(root, tmp_path / "all.zip")
    check_data(run_of(packed, "imagefolder", "classification"), "classification")
    check_classes(("a",), None)
    with pytest.raises(DatasetError, match="the same names in another order"):
        check_classes(("a", "b"), ("b", "a"))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("data=camvid",), "'semantic' has labels for segmentation, and task=detection reads labels for detection; use task=segmentation"),
        (("data=imagefolder",), "task=classification or task=timm or task=zero_shot with it, or one of these data sets: coco, shapes"),
        (("data=coco", "task=classification"), "use task=detection with it, or one of these data sets: imagefolder, shapes"),
        (("data=unlabelled", "task=segmentation", "measure=[cost]"), "use task=detection with it, or one of these data sets: semantic"),
        (("data=coco", "task=timm", "backbone=timm"), "use task=detection with it, or one of these data sets: imagefolder, shapes"),
    ],
)
def test_labels_of_another_task_are_one_line_with_the_remedy(cli, tmp_path, choice, words):  # noqa: F811
    for more in (("validate_only=true",), ("method=evit",) if "task=timm" not in choice else ()):
        code, out, err = cli("scale=smoke", *choice, f"data.root={tmp_path}", *more) if "unlabelled" not in choice[0] else cli(
            "scale=smoke", *choice, *more)  # fmt: skip
        assert code == 2 and words in err and err.count("\n") == 1 and "running" not in out


@pytest.mark.parametrize(
    ("task", "name", "breaks", "words"),
    [
        ("detection", "coco", "val2017", "no such image folder"),
        ("detection", "coco", "annotations", "no such annotation file"),
        ("classification", "imagefolder", "train", "no train/, train.zip or train.tar"),
        ("segmentation", "semantic", "labels", "no such folder: set data.labels"),
    ],
)
def test_a_split_that_is_not_there_is_said_before_the_dense_model_starts(cli, tmp_path, task, name, breaks, words):  # noqa: F811
    root = tmp_path / "set"
    if name == "coco":
        write_coco(root)
    elif name == "imagefolder":
        both_splits(root)
    else:
        for split in ("train", "val"):
            write_semantic(root, [[0, 1], [1, 0]], split=split)
    more = ["data.classes=[a,b,c]"] if name == "semantic" else []
    (root / breaks).rename(tmp_path / "gone")
    code, out, err = cli("scale=smoke", "method=evit", f"task={task}", f"data={name}", f"data.root={root}", *more)
    assert code == 2 and words in err and err.count("error:") == 1 and "starts from" not in err and "running" not in out


def test_a_broken_record_is_said_before_the_dense_model_starts(cli, tmp_path):  # noqa: F811
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"category_id": 5', '"category_id": 6'))
    code, out, err = cli("scale=smoke", "method=evit", "data=coco", f"data.root={root}")
    assert code == 2 and "instances_train2017.json: annotations[1] (id 2): category_id is 6" in err
    assert err.count("\n") == 1 and "running" not in out


def test_a_val_split_without_objects_is_no_result(cli, tmp_path):  # noqa: F811
    pytest.importorskip("detectron2")
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    code, _, err = cli("data=coco", f"data.root={root}", "scale=smoke", "init=scratch", "training.iterations=1")
    assert code == 2 and "the 1 pictures of val have no object (crowds do not count), so that there is no AP" in err
