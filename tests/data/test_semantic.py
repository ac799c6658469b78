"""Pictures with a label for each pixel: folders, what their values mean, and what is wrong with a broken one."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_sets import real
from tokenprune.data import build_segmentation
from tokenprune.data.semantic import Labelling
from tokenprune.data.shapes.shapes import SHAPES_CLASSES, ShapesDetection
from tokenprune.engine.loss import IGNORED
from tokenprune.errors import DatasetError, InvalidConfig, UnknownPlugin

NAMES = ["sky", "void", "road"]


def write(root, values, name="a", split="train", size=None, mode="L"):
    """Write an image and its labels."""
    values = np.asarray(values, dtype=np.uint8 if mode in ("L", "P") else np.uint16)
    height, width = size or values.shape
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 7, dtype=np.uint8)).save(root / "images" / split / f"{name}.png")
    labels = Image.fromarray(values)
    labels.putpalette(range(30)) if mode == "P" else None
    labels.save(root / "labels" / split / f"{name}.png")
    return root


def data(folder, split="train", **changes):
    return build_segmentation({"name": "semantic", "root": str(folder), "classes": NAMES, **changes}, split)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_values_are_labels(tmp_path, mode):
    image, labels = data(write(tmp_path, [[0, 1, 2], [2, 2, 0]], mode=mode))[0]
    assert labels.tolist() == [[0, 1, 2], [2, 2, 0]] and labels.dtype == np.int64 and image.shape == (2, 3, 3) and image.dtype == np.uint8


def test_ignored_values_leave_the_list_of_classes(tmp_path):
    """And those behind them move up: labels are always 0 to K-1."""
    found = data(write(tmp_path, [[0, 1, 2, 255]]), ignore=[1, 255])
    assert found.classes == ("sky", "road") and found[0][1].tolist() == [[0, IGNORED, 1, IGNORED]]
    assert data(tmp_path, ignore=255).classes == tuple(NAMES)


def test_ade20k_begins_at_one(tmp_path):
    found = data(write(tmp_path, [[0, 1, 3]]), ignore=[0], offset=1)
    assert found.classes == tuple(NAMES) and found[0][1].tolist() == [[IGNORED, 0, 2]]
    assert Labelling(("a", "b"), (0,), 1).table()[:4].tolist() == [-1, 0, 1, -2]


@pytest.mark.parametrize(
    "content",
    [NAMES, {"classes": NAMES, "ignore_index": 9}, {"names": NAMES}, [{"name": n, "id": 4} for n in NAMES],
     [{"name": n, "index": i} for i, n in reversed(list(enumerate(NAMES)))]],
    ids=("list", "classes", "names", "records", "indices"),
)  # fmt: skip
def test_names_from_a_file(tmp_path, content):
    write(tmp_path, [[0]])
    (tmp_path / "classes.json").write_text(json.dumps(content))
    assert data(tmp_path, classes="classes.json").classes == tuple(NAMES)


def test_the_label_folder_says_what_belongs_to_a_split(tmp_path):
    for name in "abcdef":
        write(tmp_path, [[ord(name) % 3]], name)
    (tmp_path / "labels" / "train" / "c.png").unlink()
    found = data(tmp_path)
    assert sorted(labels.stem for _, labels in found.files) == list("abdef")
    assert len(data(tmp_path, max_train=2)) == 2 and data(tmp_path, max_train=2).files == found.files[:2]


def test_folders_of_any_pattern(tmp_path):
    write(tmp_path / "x", [[1]], split="validation")
    (tmp_path / "x" / "labels").rename(tmp_path / "x" / "seg_of")
    cfg = {"images": "x/images/{split}", "labels": "x/seg_of/{split}", "val_split": "validation"}
    assert data(tmp_path, "val", **cfg)[0][1].tolist() == [[1]]


BROKEN = {
    "an image is gone": (lambda r: (r / "images/train/a.png").unlink(), r"a\.png: 1 of 2 label images have no image"),
    "another size": (lambda r: write(r, [[0, 1]], size=(3, 2)), r"labels/train/a\.png: the labels are 2 x 1 pixels, the image .* is 2 x 3"),
    "no class": (lambda r: write(r, [[9, 1]]), r"a\.png: a pixel has the value 9, allowed are 0 to 2, the 3 classes"),
    "colours": (lambda r: Image.new("RGB", (2, 1)).save(r / "labels/train/a.png"), r"a\.png: the labels are an image of mode RGB"),
    "labels cut off": (lambda r: (r / "labels/train/a.png").write_bytes(b"\x89PNG"), r"a\.png: the image cannot be read"),
    "image cut off": (lambda r: (r / "images/train/a.png").write_bytes(b""), r"images/train/a\.png: the image cannot be read"),
    "twice": (lambda r: Image.new("RGB", (2, 1)).save(r / "images/train/a.jpg"), r"a\.png: a\.jpg has the same name"),
    "no labels": (lambda r: [p.unlink() for p in (r / "labels/train").iterdir()], r"labels/train: there are no images in it"),
    "no folder": (lambda r: (r / "labels/train").rename(r / "labels/of"), r"labels/train: no such folder: set data\.labels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_names_the_file(tmp_path, name):
    write(write(tmp_path, [[0, 1]], "a"), [[0]], "b")
    breaks, message = BROKEN[name]
    breaks(tmp_path)
    with pytest.raises(DatasetError, match=message):
        list(data(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, "classes is not given"),
        ({"classes": []}, "holds no names"),
        ({"classes": ["a", "a"]}, "'a' more than once"),
        ({"classes": ["a", 3]}, "3 is no name"),
        ({"classes": "gone.json"}, r"gone\.json: no such file: set data\.classes"),
        ({"classes": "bad.json"}, r"bad\.json: no valid JSON"),
        ({"classes": "number.json"}, r"number\.json: the classes are a int"),
        ({"classes": "gap.json"}, "are not 0 to 1, each once"),
        ({"ignore": [0, 1, 2]}, "every class is ignored"),
        ({"ignore": [-1]}, r"data.ignore is \[-1\], and -1 is no value .* a label of -1 in an image of 8 bits is 255; allowed are"),
        ({"ignore": -1}, "a number from 0 to 65535, a list of them, and null"),
        ({"ignore": "none"}, "data.ignore of 'semantic' is 'none'; allowed: an integer or a list of integers or null"),
        ({"ignore": ["void"]}, "data.ignore of 'semantic' is \\['void'\\]; allowed: an integer"),
        ({"ignore": [255.0]}, "data.ignore of 'semantic' is \\[255.0\\]; allowed: an integer"),
        ({"ignore": True}, "data.ignore of 'semantic' is True; allowed: an integer"),
        ({"ignore": [70000]}, "and 70000 is no value"),
        ({"offset": -1}, "data.offset is -1; allowed is the pixel value of the first class, from 0 to 65533"),
        ({"offset": "1"}, "data.offset of 'semantic' is '1'; allowed: an integer"),
        ({"max_train": 0}, "max_images is 0"),
        ({"root": "/nowhere"}, r"/nowhere: no such folder: set data\.root"),
        ({"root": "???"}, "root is not given"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, changes, message):
    write(tmp_path, [[0]])
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "gap.json").write_text('[{"index": 0, "name": "a"}, {"index": 2, "name": "b"}]')
    with pytest.raises((DatasetError, InvalidConfig), match=message):  # the latter of values of another type
        data(tmp_path, **changes)


def test_unknown_names_and_sets_without_labels_of_pixels():
    with pytest.raises(UnknownPlugin, match="Did you mean 'semantic'"):
        build_segmentation({"name": "semantics"}, "val")
    with pytest.raises(UnknownPlugin, match="allowed are semantic, shapes"):
        build_segmentation({"name": "coco"}, "val")


@pytest.mark.parametrize("textured", [False, True])
def test_shapes_have_a_background_and_their_masks(textured):
    found = build_segmentation({"name": "shapes", "side": 64, "train_size": 3, "val_size": 4, "seed": 0, "textured": textured}, "val")
    assert found.classes == ("background", *SHAPES_CLASSES) and len(found) == 4 and found.side == 64
    for i, (image, labels) in enumerate(found):
        sample = ShapesDetection(4, 64, 0, "val")[i]
        assert np.array_equal(image, sample.image) != textured and (labels == 0).sum() == (~sample.instances.masks.any(0)).sum()
        for mask, label in zip(sample.instances.masks, sample.instances.labels, strict=True):
            assert (labels[mask] == label + 1).all()


def test_hidden_files_are_passed_over_and_other_endings_counted(tmp_path, capsys):
    """A label in a lossy form is none, and a resource fork of macOS is no picture."""
    write(tmp_path, [[0, 1]])
    for name in ("._a.png", ".hidden.png", "Thumbs.db", "b.jpg", "c.npy"):
        (tmp_path / "labels" / "train" / name).write_bytes(b"")
        (tmp_path / "images" / "train" / name).write_bytes(b"")
    found = data(tmp_path)
    assert [labels.name for _, labels in found.files] == ["a.png"]
    (note,) = found.notes
    assert "left out: 2 files with other endings (1 .jpg, 1 .npy; allowed are .png, .tif, .tiff, .bmp)" in note
    assert note in capsys.readouterr().err


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_by_their_exif_orientation(tmp_path, orientation):
    """Labels are drawn on the picture as it is shown."""
    shown = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    write(tmp_path, np.zeros((6, 4)))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    exif, stored = Image.Exif(), Image.fromarray(shown)
    exif[274] = orientation
    (stored if back is None else stored.transpose(back)).save(tmp_path / "images" / "train" / "a.png", exif=exif)
    assert np.array_equal(data(tmp_path)[0][0], shown)


REAL = {
    "camvid": ({"classes": "classes.json", "ignore": [11]}, 367, 101, 11, (360, 480)),
    "coco_mini": (
        {"classes": "annotations/semantic_classes.json", "ignore": [255], "images": "{split}2017", "labels": "semantic_{split}2017"},
        100, 100, 133, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    options, train, val, classes, size = REAL[name]
    if not real(name).is_dir():
        pytest.skip(f"{name} is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout")
    splits = [data(real(name), split, **options) for split in ("train", "val")]
    assert [len(s) for s in splits] == [train, val] and {len(s.classes) for s in splits} == {classes}
    void = 0
    for i in range(5):
        image, labels = splits[1][i]
        assert image.shape[:2] == labels.shape and (size is None or labels.shape == size)
        assert labels.min() >= IGNORED and labels.max() < classes and (labels >= 0).any()
        void += (labels < 0).sum()
    assert void > 0
