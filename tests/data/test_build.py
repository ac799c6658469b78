import subprocess
import sys
from pathlib import Path

import pytest

from tokenprune.data import build_classification, build_detection
from tokenprune.errors import DatasetError, UnknownPlugin

SHAPES = {"name": "shapes", "side": 64, "train_size": 5, "val_size": 3, "seed": 0}


def test_shapes_take_the_size_of_their_split():
    assert len(build_detection(SHAPES, "train")) == 5 and len(build_detection(SHAPES, "val")) == 3
    assert len(build_classification(SHAPES, "train")) == 5 and len(build_classification(SHAPES, "val")) == 3


def test_omegaconf_with_a_missing_root():
    omegaconf = pytest.importorskip("omegaconf")
    cfg = omegaconf.OmegaConf.create({"name": "coco", "root": "???", "train_split": "train2017"})
    with pytest.raises(DatasetError, match=r"data\.root=DIR"):
        build_detection(cfg, "train")
    assert len(build_detection(omegaconf.OmegaConf.create(SHAPES), "val")) == 3


@pytest.mark.parametrize("root", [None, "???"])
def test_missing_root_says_how_to_set_it(root):
    with pytest.raises(DatasetError, match=r"data\.root=DIR"):
        build_detection({"name": "coco", "root": root}, "val")


def test_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownPlugin, match="Did you mean 'shapes'"):
        build_detection({**SHAPES, "name": "shpaes"}, "val")
    with pytest.raises(UnknownPlugin, match="allowed are coco, shapes, unlabelled"):
        build_detection({}, "val")
    with pytest.raises(UnknownPlugin, match="allowed are imagefolder, shapes"):
        build_classification({**SHAPES, "name": "coco"}, "val")


@pytest.mark.parametrize("field", ["side", "seed", "val_size"])
def test_missing_field_is_named(field):
    cfg = {key: value for key, value in SHAPES.items() if key != field}
    with pytest.raises(DatasetError, match=field):
        build_detection(cfg, "val")


def test_unknown_split():
    with pytest.raises(DatasetError, match="'train' and 'val'"):
        build_detection(SHAPES, "test")


@pytest.mark.system
def test_import_stays_light():
    code = "import sys, tokenprune.data, tokenprune.data.shapes.shapes, tokenprune.data.coco; sys.exit('pycocotools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2]).returncode == 0
