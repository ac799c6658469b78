"""Workers that are not forked (spawn, and forkserver, which Python 3.14 takes) prepare the batches of every task and data set."""

import multiprocessing
import pickle
from itertools import count, islice

import pytest
import torch

from tests.data.test_semantic import write as write_semantic
from tests.helpers.image_sets import both_splits, pack
from tests.tasks.test_data_checks import write_coco
from tokenprune.registry import get
from tokenprune.tasks import batching

pytestmark = pytest.mark.system

CPU = torch.device("cpu")
SHAPES = {"name": "shapes", "side": 64, "train_size": 6, "val_size": 4, "seed": 0}
RECIPES = {
    "flips": {}, "maps": {"token_labels": 1.0}, "augment": {"augment": {}}, "mix": {"mix": {}},
    "deit": {"augment": {"repeats": 2}, "mix": {}},
    "segmenter": {"augment": {"policy": "segmenter"}}, "detr": {"augment": {"policy": "detr"}},
}  # fmt: skip
CASES = [
    *(("classification", data, recipe) for data in ("folder", "zip", "tar", "tars") for recipe in ("flips", "augment", "mix", "deit")),
    *(("classification", "shapes", recipe) for recipe in ("flips", "maps", "augment", "mix")),
    *(("timm", data, "flips") for data in ("folder", "shapes")),
    *(("segmentation", data, recipe) for data in ("semantic", "shapes") for recipe in ("flips", "segmenter")),
    *(("detection", data, recipe) for data in ("coco", "shapes") for recipe in ("flips", "detr")),
]


class Shipped:
    """Stands for a DataLoader whose worker is not forked: all that it gets is pickled and read again."""

    def __init__(self, source, batch_size=None, collate_fn=None, **_):
        self.batch = batch_size
        self.source, self.collate = pickle.loads(pickle.dumps((source, collate_fn)))

    def __iter__(self):
        numbers = range(len(self.source)) if self.batch else count()
        while chunk := list(islice(iter(numbers), self.batch or 1)):
            numbers = numbers[len(chunk) :] if self.batch else count(chunk[-1] + 1)
            items = [self.source[i] for i in chunk]
            yield self.collate(items if self.batch else items[0])


def data_of(kind, root):
    if kind == "shapes":
        return SHAPES
    if kind == "coco":
        return {"name": "coco", "root": str(write_coco(root / "coco")), "short_side": 64, "long_side": 96}
    if kind == "semantic":
        for split in ("train", "val"):
            for name in "ab":
                write_semantic(root / "scenes", [[0, 1], [1, 2]], name, split)
        return {"name": "semantic", "root": str(root / "scenes"), "classes": ["a", "b", "c"], "side": 64}
    folders = both_splits(root / "set", ("a", "b"))
    for split in ("train", "val") if kind in ("zip", "tar") else ():
        pack(folders / split, root / "packed" / f"{split}.{kind}")
    for split in ("train", "val") if kind == "tars" else ():
        for name in "ab":
            pack(folders / split / name, root / "inner" / split / f"{name}.tar")
        pack(root / "inner" / split, root / "packed" / f"{split}.tar")
    return {"name": "imagefolder", "root": str(folders if kind == "folder" else root / "packed"), "side": 64}


def run_of(task, data, recipe, root):
    settings = {"name": task, **RECIPES[recipe]}
    return {"task": settings, "data": data_of(data, root), "backbone": {"img_size": 64}, "training": {"batch_size": 2, "seed": 3}}


def batches(run, workers, task):
    """Return three training batches and all validation batches, the data opened before."""
    run = {**run, "training": {**run["training"], "workers": workers}}
    known = get("task", task)()
    if task == "detection":
        known._data(run, "train")[0]
        return list(islice(known.train_batches(run, 1), 3))
    seen = known._pixels(run) if task == "segmentation" else known._images(run)
    seen.split("train")[0], seen.split("val")[0]
    return [*islice(known.train_batches(run, 1), 3), *seen.first("val", 4, 2, CPU, workers)]


def flat(value):
    """Return the tensors in a batch."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in flat(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in flat(v)]
    return flat([value.gt_boxes.tensor, value.gt_classes, value.gt_masks.tensor]) if hasattr(value, "gt_boxes") else []


def same(one, two):
    pairs = list(zip(flat(one), flat(two), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("task", "data", "recipe"), CASES)
def test_what_a_worker_gets_can_be_pickled_and_makes_the_same_batches(tmp_path, monkeypatch, task, data, recipe):
    if task == "detection":
        pytest.importorskip("detectron2")
    run = run_of(task, data, recipe, tmp_path)
    expected = batches(run, 0, task)
    monkeypatch.setattr(batching, "DataLoader", Shipped)
    assert same(expected, batches(run, 1, task))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_real_workers_under_each_start_method(tmp_path, method):
    run = run_of("classification", "zip", "deit", tmp_path)
    expected, before = batches(run, 0, "classification"), multiprocessing.get_start_method(allow_none=True)
    try:
        multiprocessing.set_start_method(method, force=True)
        assert same(expected, batches(run, 1, "classification"))
    finally:
        multiprocessing.set_start_method(before, force=True)
