"""Batches of labelled images of any size: exact by place, with and without workers, and what a test sees."""

from itertools import islice

import numpy as np
import pytest
import torch

from tests.helpers.image_sets import both_splits, write_folder
from tokenprune.errors import DatasetError
from tokenprune.tasks.classification.images import LabelledImages

DEIT = {"augment": {"repeats": 2}, "mix": {}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return both_splits(tmp_path_factory.mktemp("set"))


def images(root, workers=0, **task):
    return LabelledImages({
        "task": {"name": "classification", **task}, "backbone": {"img_size": 32},
        "training": {"batch_size": 4, "seed": 1, "workers": workers},
        "data": {"name": "imagefolder", "root": str(root), "side": 24},
    })  # fmt: skip


@pytest.mark.parametrize("task", [{}, {"augment": {}}, {"mix": {}}, DEIT], ids=["flips", "augment", "mix", "deit"])
def test_batches_depend_on_the_iteration_alone(root, task):
    whole = list(islice(images(root, **task).training(0), 6))
    torch.rand(5), np.random.rand(5)
    for workers in (0, 2):
        later = list(islice(images(root, workers, **task).training(3), 3))
        assert all(torch.equal(a, b) for one, two in zip(whole[3:], later, strict=True) for a, b in zip(one, two, strict=True))
    pixels, labels = whole[0]
    assert pixels.shape == (4, 3, 24, 24) and pixels.dtype == (torch.float32 if task else torch.uint8)
    assert labels.shape == ((4, 4) if "mix" in task else (4,))


def test_repeats_show_an_image_again_in_its_batch_varied_anew(root):
    """Every file has a label and a colour of its own; four iterations of pairs show eight of the sixteen files."""
    for pixels, labels in islice(images(root, augment={"repeats": 2}).training(0), 4):
        assert torch.equal(labels[:2], labels[2:]) and not torch.equal(pixels[:2], pixels[2:])


def test_a_test_sees_every_image_once_and_normalised(root):
    view = {"crop_pct": 1.0, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    for workers in (0, 2):
        known = images(root, view=view)
        seen = list(known.first("val", 100, 5, CPU, workers))
        assert [len(labels) for _, labels in seen] == [5, 5, 2]
        data = known.split("val")
        for pixels, (image, _) in zip(torch.cat([p for p, _ in seen]), data, strict=True):
            assert torch.allclose(pixels, torch.from_numpy(image[0, 0] / 127.5 - 1).float().view(3, 1, 1), atol=1e-5)  # of one colour
        assert torch.cat([labels for _, labels in seen]).tolist() == [label for _, label in data]
    assert known.pixels(0).shape == (24, 24, 3) and [len(b) for _, b in known.first("train", 3, 2, CPU)] == [2, 1]


def test_evaluation_draws_from_no_generator(root):
    state = torch.get_rng_state()
    list(images(root).first("val", 4, 2, CPU))
    assert torch.equal(state, torch.get_rng_state())


def test_splits_of_different_classes_are_refused_once_both_are_read(tmp_path):
    root = write_folder(tmp_path, {"a": 2, "b": 2}, split="train")
    known = images(write_folder(root, {"a": 2}, split="val"))
    assert known.classes == ("a",)
    with pytest.raises(DatasetError, match="only train has b"):
        known.training(0)


def test_a_root_with_one_split_can_be_tested(tmp_path):
    known = images(write_folder(tmp_path, {"a": 2, "b": 2}, split="val"))
    assert len(list(known.first("val", 9, 4, CPU))) == 1
    with pytest.raises(DatasetError, match="no train/, train.zip or train.tar"):
        known.training(0)
