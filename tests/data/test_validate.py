"""Each kind of broken COCO file is one DatasetError that names file, record and field."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.data.coco_check import validate_coco
from tokenprune.errors import DatasetError

GOOD = {
    "images": [
        {"id": 3, "file_name": "a.jpg", "width": 20, "height": 10},
        {"id": 5, "file_name": "sub/b.jpg", "width": 20, "height": 10},
    ],
    "annotations": [
        {
            "id": 7,
            "image_id": 3,
            "category_id": 2,
            "bbox": [1, 1, 8, 6],
            "area": 48,
            "iscrowd": 0,
            "segmentation": [[1, 1, 9, 1, 9, 7, 1, 7]],
        },
        {
            "id": 8,
            "image_id": 5,
            "category_id": 4,
            "bbox": [0, 0, 20, 5],
            "area": 100,
            "iscrowd": 1,
            "segmentation": {"size": [10, 20], "counts": [50, 100, 50]},
        },
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 4, "name": "dog"}],
}
MISSING = object()

# (path to the field, its broken value, record and field that the message must name)
BROKEN = [
    (("images",), MISSING, "images"),
    (("annotations",), MISSING, "annotations"),
    (("categories",), MISSING, "categories"),
    (("images",), {"a": 1}, "images"),
    (("annotations",), None, "annotations"),
    (("images",), [], "images"),
    (("categories",), [], "categories"),
    (("images", 1), "b.jpg", "images[1]"),
    (("images", 1, "id"), MISSING, "images[1]: id"),
    (("images", 1, "id"), 3, "images[1] (id 3): id"),
    (("images", 1, "id"), "5", "images[1]: id"),
    (("images", 1, "id"), True, "images[1]: id"),
    (("images", 0, "width"), MISSING, "images[0] (id 3): width"),
    (("images", 0, "width"), 0, "images[0] (id 3): width"),
    (("images", 0, "height"), -4, "images[0] (id 3): height"),
    (("images", 0, "height"), 10.0, "images[0] (id 3): height"),
    (("images", 0, "height"), 10**9, "images[0] (id 3): height"),
    (("images", 0, "file_name"), MISSING, "file_name"),
    (("images", 0, "file_name"), "", "file_name"),
    (("images", 0, "file_name"), "/etc/passwd", "images[0] (id 3): file_name"),
    (("images", 0, "file_name"), "../a.jpg", "images[0] (id 3): file_name"),
    (("images", 0, "file_name"), "x/..\\a.jpg", "images[0] (id 3): file_name"),
    (("images", 0, "file_name"), "C:\\a.jpg", "images[0] (id 3): file_name"),
    (("categories", 1, "id"), 2, "categories[1] (id 2): id"),
    (("categories", 1, "id"), None, "categories[1]: id"),
    (("categories", 0, "name"), MISSING, "categories[0] (id 2): name"),
    (("categories", 0, "name"), 5, "categories[0] (id 2): name"),
    (("annotations", 1), [1], "annotations[1]"),
    (("annotations", 1, "id"), 7, "annotations[1] (id 7): id"),
    (("annotations", 1, "id"), MISSING, "annotations[1]: id"),
    (("annotations", 0, "image_id"), 99, "annotations[0] (id 7): image_id"),
    (("annotations", 0, "image_id"), MISSING, "annotations[0] (id 7): image_id"),
    (("annotations", 0, "image_id"), [3], "annotations[0] (id 7): image_id"),
    (("annotations", 0, "category_id"), 0, "annotations[0] (id 7): category_id"),
    (("annotations", 0, "category_id"), "cat", "annotations[0] (id 7): category_id"),
    (("annotations", 0, "iscrowd"), 2, "annotations[0] (id 7): iscrowd"),
    (("annotations", 0, "area"), float("nan"), "annotations[0] (id 7): area"),
    (("annotations", 0, "area"), -1, "annotations[0] (id 7): area"),
    (("annotations", 0, "bbox"), MISSING, "annotations[0] (id 7): bbox"),
    (("annotations", 0, "bbox"), [1, 1, 8], "annotations[0] (id 7): bbox"),
    (("annotations", 0, "bbox"), [1, 1, -8, 6], "annotations[0] (id 7): bbox"),
    (("annotations", 0, "bbox"), [1, 1, float("inf"), 6], "annotations[0] (id 7): bbox"),
    (("annotations", 0, "bbox"), [1, 1, "8", 6], "annotations[0] (id 7): bbox"),
    (("annotations", 0, "bbox"), [1, 1, 10**400, 6], "annotations[0] (id 7): bbox"),
    (("annotations", 0, "segmentation"), MISSING, "annotations[0] (id 7): segmentation"),
    (("annotations", 0, "segmentation"), [], "annotations[0] (id 7): segmentation"),
    (("annotations", 0, "segmentation"), "polygon", "annotations[0] (id 7): segmentation"),
    (("annotations", 0, "segmentation"), [1, 1, 9, 1, 9, 7], "segmentation[0]"),
    (("annotations", 0, "segmentation", 0, 2), None, "segmentation[0][2]"),
    (("annotations", 0, "segmentation", 0, 2), float("nan"), "segmentation[0][2]"),
    (("annotations", 1, "segmentation", "size"), [20, 10], "annotations[1] (id 8): segmentation.size"),
    (("annotations", 1, "segmentation", "size"), MISSING, "segmentation.size"),
    (("annotations", 1, "segmentation", "counts"), MISSING, "annotations[1] (id 8): segmentation.counts"),
    (("annotations", 1, "segmentation", "counts"), [50, 100], "segmentation.counts"),
    (("annotations", 1, "segmentation", "counts"), [250, -100, 50], "segmentation.counts"),
    (("annotations", 1, "segmentation", "counts"), "~~~", "segmentation.counts"),
    (("annotations", 1, "segmentation", "counts"), "n", "segmentation.counts"),
    (("annotations", 1, "segmentation", "counts"), "", "segmentation.counts"),
]


def write(folder, data):
    path = folder / "instances_val2017.json"
    path.write_text(json.dumps(data))
    return path


def change(data, keys, value):
    data = copy.deepcopy(data)
    target = data
    for key in keys[:-1]:
        target = target[key]
    if value is MISSING:
        del target[keys[-1]]
    else:
        target[keys[-1]] = value
    return data


def test_good_file_passes_without_info_and_licenses(tmp_path):
    data = validate_coco(write(tmp_path, GOOD))
    assert data["annotations"] == GOOD["annotations"] and data["images"] == GOOD["images"]


@pytest.mark.parametrize(("keys", "value", "named"), BROKEN, ids=[f"{'.'.join(map(str, k))}-{n}" for n, (k, _, _) in enumerate(BROKEN)])
def test_broken_field_is_named(tmp_path, keys, value, named):
    path = write(tmp_path, change(GOOD, keys, value))
    with pytest.raises(DatasetError) as caught:
        validate_coco(path)
    message = str(caught.value)
    assert path.name in message and named in message and "allowed" in message
    assert len(message) < 600, "a broken value must not flood the message"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not valid JSON"),
        (json.dumps(GOOD).encode()[:200], "not valid JSON"),
        (b'{"images": "\xff\xfe"}', "UTF-8"),
        (b"[" * 200_000, "nested"),
        (b"[]", "top level"),
        (b"null", "top level"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "not valid JSON"),
    ],
    ids=["empty", "truncated", "encoding", "deep", "list", "null", "long-number"],
)
def test_broken_file_is_named(tmp_path, content, named):
    path = tmp_path / "instances_val2017.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=named) as caught:
        validate_coco(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_missing_file(tmp_path, name):
    with pytest.raises(DatasetError, match="no such annotation file"):
        validate_coco(tmp_path / name)


def test_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(validate_coco(path)["images"]) == 2


@pytest.mark.parametrize("box", [[1, 1, 8, 0], [1, 1, 0, 6], [30, 1, 8, 6], [-9, 1, 8, 6]])
def test_box_without_area_in_the_image_is_dropped_with_a_count(tmp_path, capsys, box):
    data = validate_coco(write(tmp_path, change(GOOD, ("annotations", 0, "bbox"), box)))
    assert [a["id"] for a in data["annotations"]] == [8]
    assert "1 of 2 annotations dropped" in capsys.readouterr().err


@pytest.mark.parametrize("short", [[], [1, 1], [1, 1, 9, 1], [1, 1, 9, 1, 9, 7, 1]])
def test_short_polygons_are_dropped_with_a_count(tmp_path, capsys, short):
    """As Detectron2 does: the polygon alone if there is another, else the annotation."""
    whole = GOOD["annotations"][0]["segmentation"]
    data = validate_coco(write(tmp_path, change(GOOD, ("annotations", 0, "segmentation"), [short, *whole])))
    assert data["annotations"][0]["segmentation"] == whole and not capsys.readouterr().err
    data = validate_coco(write(tmp_path, change(GOOD, ("annotations", 0, "segmentation"), [short])))
    assert [a["id"] for a in data["annotations"]] == [8]
    assert "1 of 2 annotations dropped: their polygons have fewer than three points" in capsys.readouterr().err


def test_iscrowd_defaults_to_zero(tmp_path):
    assert validate_coco(write(tmp_path, change(GOOD, ("annotations", 0, "iscrowd"), MISSING)))["annotations"][0]["iscrowd"] == 0


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 30), st.floats(), st.text(max_size=4))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


@settings(max_examples=150, deadline=None)
@given(keys=st.sampled_from([keys for keys, _, _ in BROKEN]), value=VALUES)
def test_any_value_anywhere_is_accepted_or_a_dataset_error(tmp_path_factory, keys, value):
    path = write(tmp_path_factory.getbasetemp(), change(GOOD, keys, value))
    try:
        data = validate_coco(path)
    except DatasetError as error:
        assert path.name in str(error)
    else:
        assert set(data) >= {"images", "annotations", "categories"}
