import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprune.data import build_detection
from tokenprune.data.coco import CocoDetection
from tokenprune.errors import DatasetError

pytest.importorskip("pycocotools")
MINI = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini"
MODES = ("RGB", "L", "CMYK", "RGBA", "P", "1", "LA", "I;16")


def annotation(key, image, category=40, **changes):
    shape = [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]]
    base = {"id": key, "image_id": image, "category_id": category, "bbox": [2, 2, 8, 6], "iscrowd": 0, "segmentation": shape}
    return {**base, **changes}


@pytest.fixture
def root(tmp_path):
    """Images 9, 4, 6 of 24x16 pixels in this order in the file; 6 has no annotation."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for key in (9, 4, 6):
        Image.new("RGB", (24, 16), (key, 2 * key, 3 * key)).save(tmp_path / "val2017" / f"{key}.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "val2017" / "unlisted.png")
    crowd = annotation(0, 4, 7, iscrowd=1, area=96, bbox=[0, 0, 6, 16], segmentation={"size": [16, 24], "counts": [0, 96, 288]})
    data = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 24, "height": 16} for k in (9, 4, 6)],
        "annotations": [annotation(1, 9, bbox=[20, 2, 8, 6]), crowd, annotation(3, 4)],
        "categories": [{"id": 40, "name": "forty"}, {"id": 7, "name": "seven"}],
    }
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return tmp_path


def rewrite(root, change):
    path = root / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_order_labels_crowd_and_empty_images(root):
    data = CocoDetection(root, "val")
    assert [s.image_id for s in data] == [4, 6, 9] and data.classes == ("seven", "forty") and data.category_ids == (7, 40)
    first, empty, last = data
    assert first.instances.labels.tolist() == [0, 1] and first.instances.crowd.tolist() == [True, False]
    assert first.instances.masks[0, :, :4].all() and first.instances.masks[0].sum() == 96
    assert first.instances.boxes.tolist() == [[0, 0, 6, 16], [2, 2, 10, 8]] and first.instances.masks[1].sum() == 48
    assert empty.instances.boxes.shape == (0, 4) and empty.instances.masks.shape == (0, 16, 24)
    assert last.instances.boxes.tolist() == [[20, 2, 24, 8]], "clipped to the image"
    assert last.image[0, 0].tolist() == [9, 18, 27] and data.aspect_ratios() == [1.5] * 3


def test_coco_json_has_area_and_no_id_zero(root):
    content = CocoDetection(root, "val").coco_json()
    assert sorted(a["id"] for a in content["annotations"]) == [1, 3, 4]
    assert [a["area"] for a in content["annotations"] if a["id"] == 3] == [48.0]


def test_max_images_takes_the_lowest_ids_and_cuts_the_ground_truth(root):
    data = CocoDetection(root, "val2017", max_images=2)
    content = data.coco_json()
    assert [i["id"] for i in content["images"]] == [4, 6] and {a["image_id"] for a in content["annotations"]} == {4}
    assert len(data.classes) == 2 and len(CocoDetection(root, max_images=50)) == 3
    for bad in (0, -1, 1.5, True):
        with pytest.raises(DatasetError, match="max_images"):
            CocoDetection(root, max_images=bad)


def test_configured_split_and_annotation_file(root):
    (root / "val2017").rename(root / "photos")
    (root / "annotations" / "instances_val2017.json").rename(root / "mine.json")
    assert len(CocoDetection(root, "photos", annotations="mine.json")) == 3
    cfg = {"name": "coco", "root": str(root), "val_split": "photos", "max_val": 1, "annotations": "mine.json"}
    assert len(build_detection(cfg, "val")) == 1
    with pytest.raises(DatasetError, match=r"annotations, photos.*data\.val_split"):
        CocoDetection(root, "val")
    with pytest.raises(DatasetError, match="instances_photos.json"):
        CocoDetection(root, "photos")


@pytest.mark.parametrize("mode", MODES)
def test_every_image_mode_becomes_rgb(root, mode):
    grey = np.full((16, 24), 200, dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(grey).convert("RGB").convert(mode)
    suffix = "tif" if mode in ("CMYK", "I;16") else "png"
    image.save(root / "val2017" / f"x.{suffix}")
    rewrite(root, lambda data: data["images"][1].update(file_name=f"x.{suffix}"))
    pixels = CocoDetection(root, "val")[0].image
    assert pixels.shape == (16, 24, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.mean() - 200) < (60 if mode == "1" else 5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(24, 16), (24, 24)])
def test_exif_orientation_is_applied_as_detectron2_does(root, orientation, size):
    """Annotations are drawn on the picture as it is shown, whatever its size: the same record fits all eight ways to store it."""
    shown = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # PIL's transposition that undoes the turn
    stored, exif = Image.fromarray(shown), Image.Exif()
    exif[274] = orientation
    (stored if back is None else stored.transpose(back)).save(root / "val2017" / "4.png", exif=exif)
    rewrite(root, lambda data: data["images"][1].update(width=size[0], height=size[1]) or data.update(annotations=[annotation(3, 4)]))
    sample = CocoDetection(root, "val")[0]
    assert np.array_equal(sample.image, shown) and sample.instances.boxes.tolist() == [[2, 2, 10, 8]]


def test_a_record_of_the_unturned_size_is_refused_with_the_tag(root):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (24, 16)).save(root / "val2017" / "4.png", exif=exif)
    with pytest.raises(DatasetError, match="16x24 once it is turned by its EXIF orientation 6, its record .* 24x16.*remove the EXIF tag"):
        CocoDetection(root, "val")[0]


def test_labels_follow_the_names_of_another_split(root):
    data = CocoDetection(root, "val")
    data.relabel(("forty", "seven"))
    assert data.classes == ("forty", "seven") and data.category_ids == (40, 7)
    assert data[0].instances.labels.tolist() == [1, 0] and data.category_ids[1] == 7, "the ids of the ground truth stay"
    with pytest.raises(DatasetError, match="2 in train, 2 in val; only train has eight; only val has seven"):
        data.relabel(("forty", "eight"))


@pytest.mark.parametrize("content", ["half", "empty", "text"])
def test_unreadable_image_is_named_at_access(root, content):
    path = root / "val2017" / "4.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) - 300], "empty": b"", "text": b"not an image"}[content])
    rewrite(root, lambda data: data["images"][1].update(file_name="4.jpg"))
    data = CocoDetection(root, "val")
    with pytest.raises(DatasetError, match=r"4\.jpg.*cannot be read"):
        data[0]
    assert data[1].image_id == 6


def test_image_of_another_size_is_named(root):
    Image.new("RGB", (30, 16)).save(root / "val2017" / "4.png")
    with pytest.raises(DatasetError, match=r"4\.png.*30x16.*24x16"):
        CocoDetection(root, "val")[0]


def test_missing_images_are_counted_at_construction(root):
    (root / "val2017" / "6.png").unlink()
    (root / "val2017" / "9.png").unlink()
    with pytest.raises(DatasetError, match=r"2 of 3 images.*'6\.png' \(image id 6\)"):
        CocoDetection(root, "val")
    assert len(CocoDetection(root, "val", max_images=1)) == 1


@pytest.mark.parametrize("bad", [None, "", "???"])
def test_missing_root(bad):
    with pytest.raises(DatasetError, match=r"data\.root=DIR"):
        CocoDetection(bad)


def test_wrong_root_and_missing_json(root, tmp_path_factory):
    with pytest.raises(DatasetError, match="no such folder"):
        CocoDetection(root / "nowhere")
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: no such annotation file"):
        CocoDetection(root, "val")


@pytest.mark.skipif(not MINI.is_dir(), reason="shared/data/coco_mini is not beside this checkout")
@pytest.mark.parametrize(("split", "images", "annotations", "crowds"), [("train", 294, 2519, 25), ("val", 188, 1692, 20)])
def test_real_coco_images(split, images, annotations, crowds):
    from pycocotools.coco import COCO

    data = build_detection({"name": "coco", "root": str(MINI)}, split)
    content = data.coco_json()
    assert (len(data), len(content["annotations"]), len(data.classes)) == (images, annotations, 80)
    assert sum(a["iscrowd"] for a in content["annotations"]) == crowds
    ground = COCO()
    ground.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        ground.createIndex()
    for i in range(0, images, 10):
        sample = data[i]
        records = ground.loadAnns(ground.getAnnIds(sample.image_id))
        assert len(records) == len(sample.instances)
        for record, mask, label in zip(records, sample.instances.masks, sample.instances.labels, strict=True):
            assert np.array_equal(ground.annToMask(record).astype(bool), mask) and data.category_ids[label] == record["category_id"]
