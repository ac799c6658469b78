"""A fake release of each layout, filled by name and saved as its authors save, from the command line to a verdict on real pictures."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.helpers.filled import filled, shapes_of
from tests.helpers.image_sets import real
from tokenprune.cli import zoo

GOLDEN = Path(real("coco_mini")).parents[1] / "golden"
CLASSIFIERS = {  # entry: list of keys of the goldens
    "a-vit-t": "a_vit_tiny",
    "ada-deit-s": "adavit_deit_s",
    "dynamicvit-deit-s-0.7": "dynamicvit_deit_s",
    "evo-vit-s": "evo_vit_s",
    "tome-mae-b-r16": "tome_mae_b_r16",
    "tr-dpcknn-tiny-im1k-0.7": "tr_dpcknn_t",
    "tr-patchmerger-tiny-im1k-0.7": "tr_patchmerger_t",
    "tr-sinkhorn-tiny-im1k-0.7": "tr_sinkhorn_t",
    "tr-sit-tiny-im1k-0.7": "tr_sit_t",
}
DETECTORS = {"vit-adapter-tiny": "vit_t", "svit-adapter-tiny": "svit_t", "vit-adapter-small": "vit_s", "svit-adapter-small": "svit_s"}
SMALL = ["data.max_val=4", "data.max_train=4"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the lists of the authors' keys are not in {GOLDEN}"),
    pytest.mark.skipif(not real("coco_mini").is_dir(), reason="the real pictures are missing"),
]


def verify(capsys, name, path, root, *more):
    code = zoo.main(["verify", name, "--weights", str(path), "--data", str(root), *more])
    return code, *capsys.readouterr()


def with_classes(shapes, count, old=1000):
    """Replace the number of classes in the shapes of heads."""
    return {k: tuple(count if "head" in k and n == old else n for n in shape) for k, shape in shapes.items()}


def check(code, out, err, metric):
    assert "warning: " not in err, err  # no setting of the run differs from the file's
    assert code in (0, 3), (out, err)
    assert f"{metric}: " in out and "printed" in out or "print no accuracy" in out
    assert "result.json" in out and "sha256: " not in out  # a part of the data is nobody's measurement


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_on_photographs(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    state = filled(with_classes(shapes_of(GOLDEN / "methods/dev" / f"keys_{CLASSIFIERS[name]}.json"), 200))
    path = tmp_path / ("tiny-10-30.pth" if name == "a-vit-t" else "best.pth")
    torch.save({"model": state, "model_ema": state, "ema_best": True, "optimizer": {"state": {}}, "args": Namespace(lr=0.1)}, path)
    more = ["task.cost_images=1", "task.speed_images=1"]
    check(*verify(capsys, name, path, real("vit_tiny_tin200"), *SMALL, *more), "top1")


def test_the_gated_classifier_on_photographs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = filled(with_classes(shapes_of(GOLDEN / "svit/keys_svit_cls_s.json"), 200))
    torch.save({"model": state, "args": Namespace(lr=0.1)}, tmp_path / "svit-s.pth")
    check(
        *verify(
            capsys, "svit-small", tmp_path / "svit-s.pth", real("vit_tiny_tin200"), *SMALL, "task.cost_images=1", "task.speed_images=1"
        ),
        "top1",
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_on_photographs(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    state = filled(shapes_of(GOLDEN / "svit" / f"keys_{DETECTORS[name]}.json"))
    torch.save({"meta": {"epoch": 36, "mmdet_version": "2.28.1"}, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch.pth")
    more = ["data.max_val=2", "data.short_side=96", "data.long_side=128", "task.evaluate.cost_images=1", "task.evaluate.speed_images=1"]
    check(*verify(capsys, name, tmp_path / "epoch.pth", real("coco_mini"), *more), "ap_box")


def test_the_segmenter_on_streets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wider = {192: 768, 576: 2304, 768: 3072, 150: 11, 1000: 1000, 198: 2 + 32 * 32}
    shapes = shapes_of(GOLDEN / "methods/dev/keys_segmenter_linear_t.json")
    state = filled({key: tuple(wider.get(n, n) for n in shape) for key, shape in shapes.items()})
    torch.save({"model": state, "optimizer": {"state": {}}, "n_cls": 11, "epoch": 1}, tmp_path / "checkpoint.pth")
    more = ["data=camvid", "data.max_val=1", "data.max_train=1", "task.cost_images=1", "task.speed_images=1"]
    check(*verify(capsys, "segmenter-b-deit-linear", tmp_path / "checkpoint.pth", real("camvid"), *more), "miou")
