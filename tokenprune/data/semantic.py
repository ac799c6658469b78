"""Reads pictures with a class for each pixel: a folder of images, one of one-channel label images of the same names, a list of classes."""

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tokenprune.data.base import NO_CLASS, class_map
from tokenprune.data.class_names import read_names
from tokenprune.data.pixels import upright
from tokenprune.data.readers import UNREADABLE, is_hidden, other_endings
from tokenprune.data.shapes.shapes import SHAPES_CLASSES, ShapesDetection
from tokenprune.errors import DatasetError
from tokenprune.utils.console import warn_once

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABELS = (".png", ".tif", ".tiff", ".bmp")  # lossless ones
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
_VALUES = 1 << 16
_UNKNOWN = -2  # label of a value that is neither a class nor ignored
_LAYOUT = "a root holds images/SPLIT/NAME.jpg and labels/SPLIT/NAME.png, or the folders that data.images and data.labels name"


@dataclass(frozen=True)
class Labelling:
    """Gives the values of label images their meaning.

    Args:
        names: Names of the classes; value offset + i is names[i].
        ignore: Values without a class; a class of such a value is left out.
        offset: The value of the first class (ADE20k: 1, where 0 is void).
    """

    names: tuple[str, ...]
    ignore: tuple[int, ...] = ()
    offset: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes that are left, in the order of their values; label i is the i-th of them."""
        return tuple(name for value, name in self._values() if value not in self.ignore)

    def table(self) -> np.ndarray:
        """Return the label of each value of 16 bits, int64: `NO_CLASS` for values without a class, -2 for values that must not occur."""
        table = np.full(_VALUES, _UNKNOWN, dtype=np.int64)
        left = [value for value, _ in self._values() if value not in self.ignore]
        table[left] = np.arange(len(left))
        table[[value for value in self.ignore if 0 <= value < _VALUES]] = NO_CLASS
        return table

    def _values(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.names, start=self.offset)


class SemanticFolder:
    """Reads the images of one split that have a label image; item i is the image (H,W,3) uint8 RGB and its labels (H,W) int64, -1 for none.

    The label folder says which images belong to the split. Hidden files, and those that systems leave, are passed over. Their order is by a
    checksum of the name, so that the first n are a sample.

    Args:
        images: Folder of the images.
        labels: Folder of the label images.
        labelling: The meaning of their values.
        max_images: Take only the first images; None for all.

    Attributes:
        notes: Label files that were left out because of their endings.

    Raises:
        DatasetError: A folder is missing or empty, a label image has no image, or two images have one name.
    """

    def __init__(self, images: Path | str, labels: Path | str, labelling: Labelling, max_images: int | None = None) -> None:
        """List the images; none is read."""
        if max_images is not None and (type(max_images) is not int or max_images < 1):
            raise DatasetError(f"data set 'semantic': max_images is {max_images!r}, allowed are integers >= 1 and null for all images")
        pictures, maps = _files(images, PICTURES, "data.images"), _files(labels, LABELS, "data.labels")
        self.notes = tuple(filter(None, [_left_out(Path(labels), LABELS)]))
        for note in self.notes:
            warn_once(note)
        missing = sorted(set(maps) - set(pictures))
        if missing:
            raise DatasetError(
                f"{maps[missing[0]]}: {len(missing)} of {len(maps)} label images have no image of the same name in {images}, the first is"
                f" {missing[0]!r}: complete the folder or remove them"
            )
        stems = sorted(maps, key=lambda stem: (zlib.crc32(stem.encode()), stem))[:max_images]
        self.files = [(pictures[stem], maps[stem]) for stem in stems]
        self.classes, self._table = labelling.classes, labelling.table()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image i and its labels.

        Raises:
            DatasetError: A file cannot be decoded, the two differ in size, or a value is no class. The message names the file.
        """
        picture, labels = self.files[i]
        pixels, values = _read(picture, upright), _read(labels, _one_channel)
        if isinstance(values, str):
            raise DatasetError(f"{labels}: the labels are an image of mode {values}, allowed is one channel (L, P, I;16) of class numbers")
        if values.shape != pixels.shape[:2]:
            sizes = " x ".join(map(str, values.shape[::-1])), " x ".join(map(str, pixels.shape[1::-1]))
            raise DatasetError(
                f"{labels}: the labels are {sizes[0]} pixels, the image {picture} is {sizes[1]}, both turned by their EXIF orientation:"
                " they must be of one size"
            )
        return pixels, self._labelled(values, labels)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def _labelled(self, values: np.ndarray, path: Path) -> np.ndarray:
        inside = (values >= 0) & (values < _VALUES)
        found = np.where(inside, self._table[np.where(inside, values, 0)], _UNKNOWN)
        if (found == _UNKNOWN).any():
            known = np.flatnonzero(self._table >= 0)
            raise DatasetError(
                f"{path}: a pixel has the value {values[found == _UNKNOWN].flat[0]}, allowed are {known.min()} to {known.max()}, the"
                f" {len(self.classes)} classes, and to be ignored {np.flatnonzero(self._table == NO_CLASS).tolist()}: set data.ignore and"
                " data.offset"
            )
        return found


class ShapesSemantic:
    """Draws the pictures of `shapes` for detection with a class for each pixel: background, then the silhouettes; nearer ones hide others.

    Args:
        size: see `ShapesDetection`.
        side: see `ShapesDetection`.
        seed: see `ShapesDetection`.
        split: see `ShapesDetection`.
        textured: see `ShapesDetection`.
    """

    classes = ("background", *SHAPES_CLASSES)

    def __init__(self, size: int, side: int, seed: int, split: str, textured: bool = False) -> None:
        """Check the settings."""
        self._pictures, self.side = ShapesDetection(size, side, seed, split, textured), side

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image i (side,side,3) uint8 RGB and its labels (side,side) int64, 0 for background."""
        sample = self._pictures[i]
        return sample.image, class_map(sample.instances)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[i] for i in range(len(self)))


def open_folders(cfg: Mapping[str, Any], split: str) -> SemanticFolder:
    """Open the split "train" or "val" of a `data` group of the name `semantic`.

    Raises:
        DatasetError: The root is missing, the split does not fit, or every class is ignored.
    """
    root, name = Path(cfg["root"]).expanduser(), cfg.get(f"{split}_split") or split
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder: set data.root=DIR; {_LAYOUT}")
    folders = [root / str(cfg.get(part) or f"{part}/{{split}}").replace("{split}", str(name)) for part in ("images", "labels")]
    names = read_names(cfg.get("classes"), root)
    labelling = Labelling(names, _ignored(cfg.get("ignore")), _offset(cfg.get("offset"), len(names)))
    if not labelling.classes:
        raise DatasetError(f"{root}: every class is ignored (data.ignore={list(labelling.ignore)}); at least one must be left")
    return SemanticFolder(*folders, labelling, cfg.get(f"max_{split}"))


def _ignored(value: Any) -> tuple[int, ...]:
    """Return data.ignore as numbers."""
    numbers = () if value is None else tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    bad = [number for number in numbers if type(number) is not int or not 0 <= number < _VALUES]
    if not bad:
        return numbers
    hint = ": a label of -1 in an image of 8 bits is 255" if bad[0] == -1 else ": write data.ignore=null" if bad[0] == "none" else ""
    raise DatasetError(
        f"data.ignore is {value!r}, and {bad[0]!r} is no value of a pixel in a label image{hint}; allowed are a number from 0 to"
        f" {_VALUES - 1}, a list of them, and null or [] if every value is a class"
    )


def _offset(value: Any, classes: int) -> int:
    """Return data.offset, the pixel value of the first class."""
    value = 0 if value is None else value
    if type(value) is not int or not 0 <= value <= _VALUES - classes:
        raise DatasetError(f"data.offset is {value!r}; allowed is the pixel value of the first class, from 0 to {_VALUES - classes}")
    return value


def require_labels(data: Iterable[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    """Check that a pixel of a split has a class. Reading stops at the first picture with one.

    Raises:
        DatasetError: All pixels of all pictures are ignored.
    """
    if not any((labels != NO_CLASS).any() for _, labels in data):
        raise DatasetError(
            f"every pixel of the split {name!r} is ignored: the label images hold no other values than those of data.ignore. Set"
            " data.ignore to the value that means 'no class', and write masks with 0, 1, ... for the classes (not 0 and 255)"
        )


def _files(folder: Path | str, endings: Sequence[str], field: str) -> dict[str, Path]:
    """Return {name without ending: file} of the images in a folder."""
    folder, found = Path(folder), {}
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder: set {field}, data.train_split and data.val_split; {_LAYOUT}")
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if path.suffix.lower() in endings and entry.is_file() and not is_hidden([path.name]):
            if path.stem in found:
                raise DatasetError(f"{path}: {found[path.stem].name} has the same name; which of them is meant? Remove one")
            found[path.stem] = path
    if not found:
        raise DatasetError(f"{folder}: there are no images in it ({', '.join(endings)}): set {field}; {_LAYOUT}")
    return found


def _left_out(folder: Path, endings: Sequence[str]) -> str:
    """Return words for the files of a folder that are not read because of their endings, "" if there are none."""
    names = [entry.name for entry in os.scandir(folder) if entry.is_file() and not is_hidden([entry.name])]
    others = Counter(suffix or "no ending" for suffix in (Path(name).suffix.lower() for name in names) if suffix not in endings)
    return f"{folder}: left out: {other_endings(others, 'allowed are ' + ', '.join(endings))}" if others else ""


def _one_channel(image: Image.Image) -> np.ndarray | str:
    """Return the values of a label image, turned by its EXIF orientation like the picture; its mode if it has several channels."""
    return np.array(ImageOps.exif_transpose(image)).astype(np.int64) if image.mode in _ONE_CHANNEL else image.mode


def _read(path: Path, convert: Any) -> Any:
    try:
        with Image.open(path) as image:
            image.load()
            return convert(image)
    except UNREADABLE as error:
        raise DatasetError(f"{path}: the image cannot be read ({error}); is it missing or truncated? Fetch it again") from error
