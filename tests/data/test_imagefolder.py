"""Image folders: folder, zip and tar hold the same samples; malformed roots are named; subsets are balanced."""

import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.image_sets import CLASSES, both_splits, pack, real, write_folder
from tokenprune.data import build_classification, require_same_classes
from tokenprune.data.imagefolder import ImageFolder, _in_turn, class_folders
from tokenprune.data.readers import Entry
from tokenprune.errors import DatasetError
from tokenprune.utils.console import say_once

TINY = real("vit_tiny_tin200")


@pytest.fixture
def root(tmp_path):
    return both_splits(tmp_path / "set")


def samples(data):
    return [(data.name(i), label, image.tobytes()) for i, (image, label) in enumerate(data)]


def test_classes_are_the_sorted_folders_and_labels_their_places(root):
    data = ImageFolder(root, "val")
    assert data.classes == ("Alpha", "beta", "n10", "n2") and len(data) == 12
    for i, (image, label) in enumerate(data):
        stored = np.asarray(Image.open(root / "val" / data.name(i)))
        assert data.name(i).startswith(data.classes[label] + "/") and image.dtype == np.uint8 and np.array_equal(image, stored)


@pytest.mark.parametrize("prefix", ["", "val/", "./val/"])
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_folder_zip_and_tar_hold_the_same_samples(root, tmp_path, ending, prefix):
    packed = pack(root / "val", tmp_path / "packed" / f"val.{ending}", prefix).parent
    assert samples(ImageFolder(packed, "val")) == samples(ImageFolder(root, "val"))


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_one_archive_may_hold_both_splits(root, tmp_path, ending):
    whole = pack(root, tmp_path / f"all.{ending}")
    for split in ("train", "val"):
        assert samples(ImageFolder(whole, split)) == samples(ImageFolder(root, split))
    single = pack(root / "val", tmp_path / f"one.{ending}", "val/")
    assert samples(ImageFolder(single, "val")) == samples(ImageFolder(root, "val"))
    with pytest.raises(DatasetError, match="split 'train': the first is 'val/"):
        ImageFolder(single, "train")


def test_a_tar_of_one_tar_a_class(root, tmp_path):
    for name in CLASSES:
        pack(root / "val" / name, tmp_path / "classes" / f"{name}.tar")
    packed = pack(tmp_path / "classes", tmp_path / "packed" / "val.tar").parent
    assert samples(ImageFolder(packed, "val")) == samples(ImageFolder(root, "val"))


def test_what_is_no_image_is_passed_over(root, tmp_path):
    expected = samples(ImageFolder(root, "val"))
    (root / "val" / "labels.txt").write_text("n2")
    (root / "val" / "beta" / "._beta_0.png").write_bytes(b"a system's own")
    assert samples(ImageFolder(root, "val")) == expected
    assert samples(ImageFolder(pack(root / "val", tmp_path / "p" / "val.zip").parent, "val")) == expected


HIDDEN = (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "both.zip"])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_folders_and_those_of_systems_are_no_classes(root, tmp_path, kind, name):
    expected = samples(ImageFolder(root, "val"))
    image = root / "val" / "beta" / "beta_0.png"
    for place in (root / "val" / name, root / "val" / "beta" / name, root / name):
        place.mkdir()
        shutil.copy(image, place / "x.png")
    (root / "val" / "Thumbs.db").write_bytes(b"")
    if kind == "both.zip":
        packed = pack(root, tmp_path / "p" / "both.zip")
    else:
        packed = root if kind == "folder" else pack(root / "val", tmp_path / "p" / f"val.{kind}").parent
    data = ImageFolder(packed, "val", order="text")
    assert samples(data) == expected and not data.notes
    assert kind != "folder" or class_folders(packed, "val") == data.classes


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "both.tar"])
def test_files_that_are_left_out_are_counted_by_their_endings(root, tmp_path, capsys, kind):
    for name in ("a.webp", "b.WEBP", "c.tiff", ".d.gif", "Thumbs.db", "deep/e.png"):
        (root / "val" / "beta" / name).parent.mkdir(exist_ok=True)
        (root / "val" / "beta" / name).write_bytes(b"")
    (root / "val" / "readme.txt").write_text("no picture, beside the classes")
    if kind == "both.tar":
        packed = pack(root, tmp_path / "p" / "both.tar")
    else:
        packed = root if kind == "folder" else pack(root / "val", tmp_path / "p" / f"val.{kind}").parent
    data = ImageFolder(packed, "val", order="text")
    assert len(data) == 12 and len(data.notes) == 1
    assert "3 files with other endings (2 .webp, 1 .tiff; images are .png, .jpg, .jpeg)" in data.notes[0]
    assert "1 images in folders inside a class folder, the first is" in data.notes[0] and data.notes[0] in capsys.readouterr().err


def test_folders_named_by_numbers_have_these_as_labels(tmp_path):
    names = [str(n) for n in range(12)]
    data = ImageFolder(write_folder(tmp_path, dict.fromkeys(names, 1)), "val")
    assert data.classes == tuple(names) and "numbers by their value, as timm does: label 2 is '2'" in data.notes[0]
    assert ImageFolder(tmp_path, "val", order="text").classes == tuple(sorted(names)) == class_folders(tmp_path, "val", "text")
    assert not ImageFolder(tmp_path, "val", order="natural").notes
    with pytest.raises(DatasetError, match="order is 'size', allowed are text, natural and null"):
        ImageFolder(tmp_path, "val", order="size")


def test_an_order_that_timm_does_not_share_is_said(root, capsys):
    say_once.cache_clear()
    data = ImageFolder(root, "val")
    assert data.notes[0] in capsys.readouterr().out
    assert data.classes == ("Alpha", "beta", "n10", "n2") and "label 2 is 'n10'" in data.notes[0] and "data.order=natural" in data.notes[0]
    natural = ImageFolder(root, "val", order="natural")
    assert natural.classes == ("Alpha", "beta", "n2", "n10") and not natural.notes
    known = {data.name(i): image.tobytes() for i, (image, _) in enumerate(data)}
    assert all(known[natural.name(i)] == image.tobytes() for i, (image, _) in enumerate(natural))


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 9), min_size=1))
def test_every_prefix_is_balanced_and_the_order_is_of_names_alone(counts):
    entries = [Entry(n, name, f"{i}.png") for n, (name, i) in enumerate((c, i) for c, count in counts.items() for i in range(count))]
    order = [(e.folder, e.file) for e in _in_turn(entries)]
    assert order == [(e.folder, e.file) for e in _in_turn(entries[::-1])]
    assert sorted(order) == sorted((e.folder, e.file) for e in entries)
    for n in range(1, len(order) + 1):
        seen = Counter(folder for folder, _ in order[:n])
        assert all(seen[c] >= min(counts[c], max(seen.values()) - 1) for c in counts)


def test_limits_take_the_first_of_the_order(root):
    cfg = {"name": "imagefolder", "root": str(root), "max_train": 5, "max_val": 6}
    few, all_ = build_classification(cfg, "val"), build_classification({**cfg, "max_val": None}, "val")
    assert samples(few) == samples(all_)[:6] and few.classes == all_.classes
    assert set(Counter(label for _, label in few).values()) == {1, 2} and len(build_classification(cfg, "train")) == 5
    for bad in (0, -1, 2.5, True):
        with pytest.raises(DatasetError, match="allowed are integers >= 1 and null"):
            ImageFolder(root, "val", bad)


def test_split_names_are_a_choice(root):
    shutil.move(root / "val", root / "validation")
    cfg = {"name": "imagefolder", "root": str(root), "val_split": "validation"}
    assert len(build_classification(cfg, "val")) == 12
    with pytest.raises(DatasetError, match=r"no val/, val.zip or val.tar; there is: train, validation: set data.train_split"):
        build_classification({**cfg, "val_split": None}, "val")


def test_grey_palette_and_deep_images_become_rgb(tmp_path):
    folder = write_folder(tmp_path, {"a": 1}) / "val" / "a"
    Image.fromarray(np.full((5, 7), 300 * 40, dtype=np.uint16)).save(folder / "deep.png")
    Image.fromarray(np.full((5, 7), 9, dtype=np.uint8)).convert("P").save(folder / "palette.png")
    found = {name: image for name, _, image in samples(ImageFolder(tmp_path, "val"))}
    assert found["a/deep.png"] == bytes([12000 >> 8]) * 105 and found["a/palette.png"] == bytes([9]) * 105


@pytest.mark.parametrize(
    "bad, words",
    [(None, r"set data\.root=DIR"), ("???", r"set data\.root=DIR"), ("", r"set data\.root=DIR"), ("nowhere", "no such folder")],
)
def test_a_root_that_is_not_there(bad, words):
    with pytest.raises(DatasetError, match=words):
        ImageFolder(bad, "val")


def test_a_root_that_is_a_file_of_another_kind(tmp_path):
    (tmp_path / "set.rar").write_bytes(b"")
    with pytest.raises(DatasetError, match="is neither a folder nor a .zip or .tar"):
        ImageFolder(tmp_path / "set.rar", "val")


@pytest.mark.parametrize("ending", ["zip", "tar", ""])
def test_no_image_at_all(tmp_path, ending):
    folder = tmp_path / "set" / "val"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "notes.txt").write_text("none")
    root = pack(folder, tmp_path / "packed" / f"val.{ending}").parent if ending else folder.parent
    with pytest.raises(DatasetError, match=r"val.*: there is no image in it, allowed are \.png"):
        ImageFolder(root, "val")


def test_an_empty_class_folder_is_named(root):
    (root / "val" / "unicorn").mkdir()
    with pytest.raises(DatasetError, match=r"1 class folder \('unicorn'\) without an image"):
        ImageFolder(root, "val")


def test_images_outside_class_folders_or_too_deep(tmp_path):
    flat = write_folder(tmp_path / "flat", {"": 2})
    deep = write_folder(tmp_path / "deep", {"animals/cat": 2})
    for root, first in ((flat, "'_0.png'"), (deep, "'animals/cat/")):
        with pytest.raises(DatasetError, match=f"not in class folders of the split 'val': the first is {first}"):
            ImageFolder(root, "val")
    with pytest.raises(DatasetError, match="not in class folders"):  # and not a class of the name of the split
        ImageFolder(pack(flat, tmp_path / "all.zip"), "val")


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_damaged_archive_is_named(root, tmp_path, ending):
    path = pack(root / "val", tmp_path / "packed" / f"val.{ending}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if ending == "zip" else b"x" * 2000)
    with pytest.raises(DatasetError, match=rf"val\.{ending}: the archive cannot be read"):
        ImageFolder(path.parent, "val")


@pytest.mark.parametrize("ending", ["", "zip", "tar"])
def test_a_truncated_or_missing_image_is_named(root, tmp_path, ending):
    bad = root / "val" / "beta" / "beta_1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    where = pack(root / "val", tmp_path / "p" / f"val.{ending}").parent if ending else root
    data = ImageFolder(where, "val")
    number = next(i for i in range(len(data)) if data.name(i) == "beta/beta_1.png")
    with pytest.raises(DatasetError, match=r"the image beta/beta_1.png cannot be read .*truncated"):
        data[number]
    if not ending:
        bad.unlink()
        with pytest.raises(DatasetError, match=r"beta/beta_1.png cannot be read .*missing"):
            data[number]


def test_splits_must_have_the_same_classes(tmp_path):
    root = write_folder(tmp_path, {"a": 1, "b": 1, "c": 1}, split="train")
    write_folder(root, {"b": 1, "x": 1}, split="val")
    splits = [ImageFolder(root, split) for split in ("train", "val")]
    with pytest.raises(DatasetError, match=r"3 in train, 2 in val; only train has a, c; only val has x; allowed are the same") as error:
        require_same_classes(*splits)
    assert "complete one or remove from the other" in str(error.value)
    require_same_classes(splits[0], splits[0])


@pytest.mark.skipif(not TINY.is_dir(), reason="vit_tiny_tin200 is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout")
def test_real_images_in_a_zip():
    data = ImageFolder(TINY, "val", 400)
    assert len(data.classes) == 200 and data.classes == tuple(sorted(data.classes))
    assert set(Counter(data[i][1] for i in range(400)).values()) == {2} and data[0][0].shape == (64, 64, 3)
    assert len(ImageFolder(TINY, "train")) == 18000
