"""The models that are shown: methods as words, weights of timm models, and rows of each task."""

import numpy as np
import pytest
import timm
import torch

from tests.helpers.rows import made
from tokenprune.errors import CheckpointMismatch, InvalidConfig, ResultSchemaError, TokenPruneError
from tokenprune.registry import get
from tokenprune.runs.results import row_folder
from tokenprune.runs.subjects import SHIPPED, UNTRAINED, imagenet_names, method_of, of_row, of_shipped, of_timm, shipped_pictures
from tokenprune.tasks.pictures import LabelMap, Predictions
from tokenprune.tasks.pixels import IMAGE_MEAN, IMAGE_STD
from tokenprune.utils.checkpoints import load_weights, save_weights

NAME, SIDE = "vit_tiny_patch16_224", 64


def photo(height=70, width=90) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_weights(path, timm.create_model(NAME, img_size=SIDE, num_classes=6))
    return path


@pytest.mark.parametrize(
    "word, label, axes",
    [
        ("evit", "EViT", {"selector": {"name": "evit"}, "treatment": {"name": "remove"}, "schedule": {"name": "stages"}}),
        ("dense", "Dense", {}),
        ("pitome", "PiToMe", {"selector": {"name": "pitome"}}),
        (
            "svit:keep_rate=0.5,treatment=preserve,selector.gate=complex",
            "SViT (keep_rate=0.5,treatment=preserve,selector.gate=complex)",
            {
                "selector": {"name": "svit", "gate": "complex"},
                "treatment": {"name": "preserve"},
                "schedule": {"name": "every_block", "keep_rate": 0.5},
            },
        ),
        ("topk:schedule.blocks=[2]", "Attention top-k (schedule.blocks=[2])", {"schedule": {"name": "stages", "blocks": [2]}}),
    ],
)
def test_a_word_names_a_method(word, label, axes):
    found = method_of(word)
    assert found.label == label and {axis: found.axes.get(axis) for axis in axes} == axes and bool(found.axes) == bool(axes)


def test_methods_that_share_a_label_are_told_apart():
    assert method_of("evit").label != method_of("evit_fused").label


@pytest.mark.parametrize(
    "word, words",
    [
        ("evitt", "there is no method 'evitt'. Did you mean 'evit'"),
        ("evit:keep_rate", "'keep_rate' sets nothing"),
        ("evit:=3", "'=3' sets nothing"),
        ("dense:keep_rate=0.5", "sets nothing"),
    ],
)
def test_words_that_say_nothing_are_refused(word, words):
    with pytest.raises(InvalidConfig, match=words):
        method_of(word)


def test_a_timm_model_is_shown_dense_and_with_each_method(weights):
    found = of_timm(NAME, weights, [method_of("evit"), method_of("tome:remove=1"), method_of("svit")], tuple("abcdef"), SIDE)
    assert [one.label for one in found] == ["Dense", "EViT", "ToMe (remove=1)", "SViT"]
    assert [one.dense for one in found] == [True, False, False, False]
    assert [UNTRAINED in one.notes for one in found] == [False, False, False, True]  # only SViT has parameters of its own
    assert found[0].about == "every token in every block" and found[1].about == "treatment remove, schedule stages, keep rate 0.7"
    assert found[2].about == "treatment merge, schedule per_block, 1 tokens a decision"
    pictures = [next(one.look([photo()])) for one in found]
    assert all(p.used.shape == (12, 4, 4) and p.pixels.shape == (SIDE, SIDE, 3) for p in pictures)
    assert {name for p in pictures for name in p.predictions.names} <= set("abcdef")
    assert pictures[0].gmac[1] > pictures[1].gmac[1]


def test_a_timm_models_answer_is_the_models_own(weights):
    vit = timm.create_model(NAME, img_size=SIDE, num_classes=6).eval()
    load_weights(weights, vit)
    picture = next(of_timm(NAME, weights, [], (), SIDE)[0].look([photo()]))
    x = (torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5  # mean and std of AugReg
    with torch.no_grad():
        expected = vit(x).softmax(1)[0].topk(5)
    assert picture.predictions.names == tuple(f"class {k}" for k in expected.indices.tolist())
    assert picture.predictions.shares == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_selectors_in_the_file_are_no_random_ones(tmp_path):
    row = made(tmp_path, "task=classification", "method=svit")
    own = of_row(row_folder(tmp_path, row["key"]), ())[1]
    assert own.label == "SViT" and own.notes == ()


def test_wrong_models_and_files_are_refused(weights, tmp_path):
    with pytest.raises(InvalidConfig, match="timm has no model 'vit_tiny_patch16_22'.*Did you mean"):
        of_timm("vit_tiny_patch16_22", weights, [])
    with pytest.raises(CheckpointMismatch):
        of_timm("vit_small_patch16_224", weights, [], (), SIDE)
    with pytest.raises(CheckpointMismatch):
        of_timm(NAME, tmp_path / "missing.pth", [])
    with pytest.raises(InvalidConfig, match="leave --size out"):
        of_timm("resnet18", weights, [], (), SIDE)


def test_names_of_imagenet_come_with_timm():
    names = imagenet_names()
    assert len(names) == 1000 and names[0] == "tench" and names[207] == "golden retriever"


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_row_is_shown_beside_the_same_weights_with_every_token(tmp_path, task):
    row = made(tmp_path, f"task={task}", "method=evit")
    folder = row_folder(tmp_path, row["key"])
    dense, own, tome = of_row(folder / "result.json", [method_of("tome:remove=2")])
    assert [dense.label, own.label, tome.label] == ["Dense", "EViT", "ToMe (remove=2)"] and dense.dense and not own.dense
    pictures = [next(one.look([photo()])) for one in (dense, own, tome)]
    assert bool(pictures[0].used.all()) and not pictures[1].used.all()
    assert pictures[0].gmac[1] > pictures[1].gmac[1] and pictures[2].owners.min() >= 0
    if task == "segmentation":
        assert isinstance(pictures[1].predictions, LabelMap)
        return
    model = get("task", task)().build_model(row["config"])
    load_weights(folder / "model.safetensors", model.eval())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        x = (torch.from_numpy(pictures[1].pixels).permute(2, 0, 1)[None].float() - mean) / std
        best = model(x).softmax(1)[0].max()
    assert pictures[1].predictions.shares[0] == pytest.approx(float(best), abs=1e-5)


def test_a_detectors_row_is_shown_with_objects(tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    row = made(tmp_path, "method=svit")
    dense, own = of_row(row_folder(tmp_path, row["key"]), ())
    for subject in (dense, own):
        picture = next(subject.look([photo()]))
        assert isinstance(picture.predictions, Predictions) and picture.owners.shape == picture.used.shape
        assert len(picture.predictions.names) == len(picture.predictions.scores)
    assert dense.dense and own.notes == ()


def test_a_dense_row_is_shown_once(tmp_path):
    row = made(tmp_path, "task=classification", "method=dense")
    assert [one.label for one in of_row(row_folder(tmp_path, row["key"]), ())] == ["Dense"]


def test_rows_without_a_model_are_refused(tmp_path):
    row = made(tmp_path, "task=classification", "method=evit", status="failed", reason="the disk is full")
    folder = row_folder(tmp_path, row["key"])
    with pytest.raises(TokenPruneError, match="ended as failed: the disk is full"):
        of_row(folder, ())
    row = made(tmp_path, "task=classification", "method=evit", "seed=1")
    (row_folder(tmp_path, row["key"]) / "model.safetensors").unlink()
    with pytest.raises(TokenPruneError, match="has no model.safetensors; give a row"):
        of_row(row_folder(tmp_path, row["key"]), ())
    with pytest.raises(ResultSchemaError):
        of_row(tmp_path, ())


def test_the_shipped_classifier_needs_no_file():
    pictures = shipped_pictures("demo", 2)
    assert len(pictures) == 2 and pictures[0].shape == (128, 128, 3)
    dense, pruned = of_shipped("demo", [method_of("evit")])
    seen = [next(one.look(pictures)) for one in (dense, pruned)]
    assert dense.dense and not pruned.notes and seen[0].predictions.shares[0] > 0.5 and not seen[1].used.all()
    assert set(SHIPPED) == {"demo", "demo_detector"}
