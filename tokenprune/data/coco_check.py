"""Checks a COCO instances file record by record, so that a broken file gives one clear message and never a bare KeyError."""

import json
import reprlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tokenprune.data.coco_masks import is_number, segmentation_problem, without_short_polygons
from tokenprune.errors import DatasetError
from tokenprune.utils.console import warn

_MAX_SIDE = 65535  # the largest side that JPEG can hold
_EXPORT = "correct the file or export it again in COCO instances format"
_SECTIONS = {
    "images": "the list of image records",
    "annotations": "the list of object records (image-info files of test splits have none and cannot be evaluated)",
    "categories": "the list of category records",
}


@dataclass(frozen=True)
class _Record:
    """Names a place in a file, and makes the errors for its fields."""

    path: Path
    name: str

    def error(self, field: str, got: Any, allowed: str, remedy: str = _EXPORT) -> DatasetError:
        shown = got if isinstance(got, str) and got.startswith(("a ", "run ", "missing")) else reprlib.repr(got)
        return DatasetError(f"{self.path}: {self.name}: {field} is {shown}, allowed is {allowed}: {remedy}")

    def get(self, record: dict[str, Any], field: str, allowed: str) -> Any:
        if field not in record:
            raise self.error(field, "missing", allowed)
        return record[field]

    def integer(self, record: dict[str, Any], field: str, low: int = 0, high: int = 2**53) -> int:
        allowed = f"an integer from {low} to {high}"
        value = self.get(record, field, allowed)
        if type(value) is not int or not low <= value <= high:
            raise self.error(field, value, allowed)
        return value


def validate_coco(path: str | Path) -> dict[str, Any]:
    """Read and check a COCO instances file, and return its dictionary, with `iscrowd` set to 0 where it is absent.

    `info` and `licenses` may be absent. Annotations whose box has no area inside its image are dropped with one counted warning: their
    width or height is 0, as in one of the official COCO train file, or they lie wholly outside. A negative width or height is an error.
    Polygons of fewer than three points, or with half a point, are dropped as in Detectron2, and an annotation with them if it has no
    other polygon.

    Raises:
        DatasetError: A record is wrong. The message names the file, the record, the field, its value and the allowed values.
    """
    path = Path(path)
    data = _read(path)
    top = _Record(path, "top level")
    if not isinstance(data, dict):
        raise top.error("the file", f"a JSON {type(data).__name__}", "an object with images, annotations and categories")
    for section, meaning in _SECTIONS.items():
        value = top.get(data, section, meaning)
        if not isinstance(value, list):
            raise top.error(section, value, meaning)
        if not value and section != "annotations":
            raise top.error(section, value, f"{meaning}, not empty")
    images = _check_images(path, data["images"])
    categories = _check_categories(path, data["categories"])
    annotations = _check_annotations(path, data["annotations"], images, categories)
    return {**data, "annotations": annotations}


def checked_coco(path: str | Path) -> dict[str, Any]:
    """Return what `validate_coco` returns, read once a process while the file stays as it is. It must not be changed."""
    path = Path(path)
    stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
    return _checked(path, stamp)


@lru_cache(maxsize=2)  # the two splits of a run
def _checked(path: Path, stamp: Any) -> dict[str, Any]:
    return validate_coco(path)


def category_names(path: str | Path) -> tuple[str, ...]:
    """Return the names of the categories of a file in the order of their ids. Its other sections are not checked.

    Raises:
        DatasetError: The file is no JSON, or its categories are malformed.
    """
    path = Path(path)
    data = _read(path)
    records = data.get("categories") if isinstance(data, dict) else None
    if not isinstance(records, list):
        raise _Record(path, "top level").error("categories", records, _SECTIONS["categories"])
    _check_categories(path, records)
    return tuple(record["name"] for record in sorted(records, key=lambda record: record["id"]))


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DatasetError(f"{path}: no such annotation file: set data.root to a folder that holds annotations/{path.name}")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: byte {error.start} is not UTF-8, allowed is UTF-8 text: {_EXPORT}") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: the JSON is nested too deeply, COCO needs about 5 levels: {_EXPORT}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); is the file truncated? Download it or {_EXPORT}") from error


def _records(path: Path, section: str, records: list[Any]) -> Any:
    """Yield (place, record, id) of each record of a section. The records must be objects with ids of their own."""
    seen: dict[int, int] = {}
    for i, record in enumerate(records):
        where = _Record(path, f"{section}[{i}]")
        if not isinstance(record, dict):
            raise where.error("the record", record, "a JSON object")
        key = where.integer(record, "id")
        where = _Record(path, f"{section}[{i}] (id {key})")
        if key in seen:
            raise where.error("id", f"a duplicate of the id of {section}[{seen[key]}]", "an id that occurs once")
        seen[key] = i
        yield where, record, key


def _check_images(path: Path, records: list[Any]) -> dict[int, tuple[int, int]]:
    """Return {image id: (height, width)}."""
    sizes = {}
    for where, record, key in _records(path, "images", records):
        sizes[key] = (where.integer(record, "height", 1, _MAX_SIDE), where.integer(record, "width", 1, _MAX_SIDE))
        allowed = "a path relative to the image folder, without '..'"
        name = where.get(record, "file_name", allowed)
        if not isinstance(name, str) or not name or "\0" in name or _escapes(name):
            raise where.error("file_name", name, allowed)
    return sizes


def _escapes(name: str) -> bool:
    """Tell if a file name could leave the image folder, on this system or on Windows."""
    windows = PureWindowsPath(name)
    return PurePosixPath(name).is_absolute() or bool(windows.drive or windows.root) or ".." in windows.parts


def _check_categories(path: Path, records: list[Any]) -> set[int]:
    keys = set()
    for where, record, key in _records(path, "categories", records):
        name = where.get(record, "name", "the name of the class")
        if not isinstance(name, str) or not name:
            raise where.error("name", name, "a text that is not empty")
        keys.add(key)
    return keys


def _check_annotations(path: Path, records: list[Any], images: dict[int, tuple[int, int]], categories: set[int]) -> list[dict[str, Any]]:
    kept, dropped = [], Counter()
    for where, record, _ in _records(path, "annotations", records):
        image = where.integer(record, "image_id")
        if image not in images:
            raise where.error("image_id", image, "the id of a record in images")
        category = where.integer(record, "category_id")
        if category not in categories:
            raise where.error("category_id", category, "the id of a record in categories")
        crowd = record.get("iscrowd", 0)
        if type(crowd) is not int or crowd not in (0, 1):
            raise where.error("iscrowd", crowd, "0 or 1")
        if not is_number(record.get("area", 0)) or record.get("area", 0) < 0:
            raise where.error("area", record["area"], "a finite number >= 0")
        if not _check_box(where, record, *images[image]):
            dropped["their bbox has no area inside the image"] += 1
            continue
        segmentation = without_short_polygons(record.get("segmentation"))
        if segmentation == [] != record["segmentation"]:
            dropped["their polygons have fewer than three points"] += 1
            continue
        checked = {**record, "iscrowd": crowd, **({"segmentation": segmentation} if "segmentation" in record else {})}
        _check_segmentation(where, checked, *images[image])
        kept.append(checked)
    for reason, count in dropped.items():
        warn(f"{path}: {count} of {len(records)} annotations dropped: {reason}")
    return kept


def _check_box(where: _Record, record: dict[str, Any], height: int, width: int) -> bool:
    """Check that a box is well formed, and tell if it covers any of the image."""
    allowed = "[x, y, width, height], four finite numbers in pixels, width and height not negative"
    box = where.get(record, "bbox", allowed)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise where.error("bbox", box, allowed)
    x, y, w, h = box
    if w < 0 or h < 0:
        raise where.error("bbox", box, allowed)
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def _check_segmentation(where: _Record, record: dict[str, Any], height: int, width: int) -> None:
    value = where.get(record, "segmentation", "polygons or RLE (boxes alone do not train a mask head)")
    problem = segmentation_problem(value, height, width)
    if problem is not None:
        field, got, allowed = problem
        raise where.error(f"segmentation{field}", got, allowed)
