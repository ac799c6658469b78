import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.data.base import class_map
from tokenprune.data.shapes.shapes import SHAPES_CLASSES, ShapesClassification, ShapesDetection, render
from tokenprune.errors import DatasetError

INDICES = st.integers(0, 10**6)


def same(a, b):
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.instances.masks, b.instances.masks)
        and np.array_equal(a.instances.boxes, b.instances.boxes)
        and np.array_equal(a.instances.labels, b.instances.labels)
    )


def test_image_does_not_depend_on_order_or_size_of_the_set():
    forward = [ShapesDetection(6, 64, 3, "train")[i] for i in range(6)]
    longer = ShapesDetection(1000, 64, 3, "train")
    for i in reversed(range(6)):
        assert same(longer[i], forward[i])


def test_seed_split_index_and_mode_change_the_image():
    base = render(0, 5, 64).image
    others = (
        render(1, 5, 64).image,
        render(0, 6, 64).image,
        render(0, 5, 64, split="val").image,
        render(0, 5, 64, mode="classification").image,
    )
    for other in others:
        assert not np.array_equal(base, other)


def test_train_and_val_share_no_image():
    train = {s.image.tobytes() for s in ShapesDetection(60, 64, 0, "train")}
    val = {s.image.tobytes() for s in ShapesDetection(60, 64, 0, "val")}
    assert len(train) == len(val) == 60 and not train & val


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), index=INDICES, side=st.sampled_from([64, 96, 128, 160]), split=st.sampled_from(["train", "val"]))
def test_annotation_laws(seed, index, side, split):
    sample = ShapesDetection(10**6 + 1, side, seed, split)[index]
    found = sample.instances
    n = len(found)
    assert sample.image.shape == (side, side, 3) and sample.image.dtype == np.uint8
    assert 1 <= n <= 7 and found.masks.shape == (n, side, side) and found.masks.dtype == bool
    assert found.boxes.shape == (n, 4) and found.boxes.dtype == np.float32
    assert found.labels.dtype == np.int64 and set(found.labels.tolist()) <= set(range(len(SHAPES_CLASSES)))
    assert not found.crowd.any()
    assert found.masks.sum(axis=0).max() <= 1, "masks overlap"
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.boxes.astype(int), strict=True):
        assert mask.sum() >= 12
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum(), "box cuts the mask"
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any(), "box is not tight"


def test_objects_stand_out_from_the_background():
    gaps = []
    for sample in ShapesDetection(40, 96, 0, "train"):
        behind = sample.image[~sample.instances.masks.any(axis=0)].mean(axis=0)
        gaps += [np.abs(sample.image[m].mean(axis=0) - behind).max() for m in sample.instances.masks]
    assert np.median(gaps) > 60


def test_foreground_sizes_and_classes_are_spread_as_promised():
    samples = list(ShapesDetection(100, 128, 0, "val"))
    foreground = np.mean([s.instances.masks.any(axis=0).mean() for s in samples])
    assert 0.25 <= foreground <= 0.35
    scale = np.concatenate([np.sqrt(s.instances.masks.sum(axis=(1, 2))) / 128 for s in samples])
    shares = np.histogram(scale, bins=[0, 0.15, 0.28, 1])[0] / len(scale)
    assert shares.min() > 0.15
    assert np.bincount(np.concatenate([s.instances.labels for s in samples]), minlength=8).min() > 0.06 * len(scale)


@pytest.mark.parametrize("side", [64, 200, 512])
def test_any_side_in_range_works(side):
    sample = ShapesDetection(3, side, 1, "val")[-1]
    assert sample.image.shape == (side, side, 3) and sample.image_id == 2 and len(sample.instances) >= 1


def test_class_map_agrees_with_the_masks():
    found = ShapesDetection(2, 64, 0, "train")[1].instances
    labels = class_map(found)
    assert np.array_equal(labels > 0, found.masks.any(axis=0))
    for mask, label in zip(found.masks, found.labels, strict=True):
        assert (labels[mask] == label + 1).all()


def test_classification_is_deterministic_and_balanced():
    data = ShapesClassification(400, 64, 0, "train")
    counts = np.bincount([data[i][1] for i in range(400)], minlength=8)
    assert counts.min() > 25 and counts.max() < 80
    again = ShapesClassification(400, 64, 0, "train")[17]
    assert np.array_equal(again[0], data[17][0]) and again[1] == data[17][1]
    assert data.classes == SHAPES_CLASSES


def test_classification_has_one_main_object():
    areas = [(render(0, i, 96, "classification").ids > 0).mean() for i in range(60)]
    assert min(areas) > 0.02 and max(len(render(0, i, 96, "classification").labels) for i in range(60)) == 1


def test_coco_json_round_trips_through_pycocotools():
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    data = ShapesDetection(12, 96, 0, "val")
    ground = COCO()
    ground.dataset = data.coco_json()
    with contextlib.redirect_stdout(io.StringIO()):
        ground.createIndex()
    assert sorted(ground.getImgIds()) == list(range(12)) and data.coco_json() is data.coco_json()
    assert min(ground.getAnnIds()) == 1, "COCOeval takes annotation id 0 for unmatched"
    for sample in data:
        annotations = ground.loadAnns(ground.getAnnIds(sample.image_id))
        assert [data.category_ids.index(a["category_id"]) for a in annotations] == sample.instances.labels.tolist()
        for a, mask, box in zip(annotations, sample.instances.masks, sample.instances.boxes, strict=True):
            assert np.array_equal(ground.annToMask(a).astype(bool), mask) and a["area"] == mask.sum()
            x, y, w, h = a["bbox"]
            assert [x, y, x + w, y + h] == box.tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 2.5),
        ("size", True),
        ("side", 32),
        ("side", 1024),
        ("side", "128"),
        ("seed", -1),
        ("seed", None),
        ("split", "test"),
    ],
)
def test_bad_settings_name_the_field(field, value):
    settings_ = {"size": 4, "side": 64, "seed": 0, "split": "val", field: value}
    for kind in (ShapesDetection, ShapesClassification):
        with pytest.raises(DatasetError, match=field):
            kind(**settings_)


def test_index_out_of_range_ends_iteration():
    data = ShapesDetection(2, 64, 0, "val")
    with pytest.raises(IndexError):
        data[2]
    assert len(list(ShapesClassification(2, 64, 0, "val"))) == 2


def test_surfaces_are_of_the_class_and_on_the_object_alone():
    plain, textured = (ShapesClassification(40, 96, 0, "train", textured=on) for on in (False, True))
    changed = {}
    for i in range(40):
        (before, label, map_), (after, same, _) = plain.with_map(i), textured.with_map(i)
        assert label == same
        level = np.abs(after.astype(int) - before).max(-1)
        assert np.median(level[map_ == 8]) <= 25, "only sensor noise, drawn anew, beside the object"
        changed.setdefault(label, []).append((level[map_ == label] > 30).mean())
    shares = {label: np.mean(found) for label, found in changed.items()}
    assert shares[0] < 0.1 < 0.3 < shares[2], "a disk stays plain, a triangle gets stripes"
    assert np.array_equal(textured[3][0], textured[3][0])
