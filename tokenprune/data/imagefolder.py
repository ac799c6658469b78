"""Reads labelled images: ROOT/train and ROOT/val with one folder a class, each a folder, a zip or a tar; or one archive with both."""

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from timm.utils.misc import natural_key

from tokenprune.data.pixels import to_rgb
from tokenprune.data.readers import ARCHIVES, UNREADABLE, Entry, entries_of, is_hidden, left_out, open_source
from tokenprune.errors import DatasetError
from tokenprune.utils.console import say_once, warn_once

ORDERS = (None, "text", "natural")

_LAYOUT = "an image folder root holds train/<class>/<file> and val/<class>/<file>, as folders or packed as train.zip, val.zip (or .tar)"


class ImageFolder:
    """Reads the images of one split; the label is the index of the class folder in the order of `order`.

    The order is the same for a folder, a zip and a tar: class by class in turn, and within a class by a checksum of the name. So the first
    n images are a sample of all classes, whose counts differ by one at most while all classes have images left.

    Args:
        root: A folder, or a zip or tar.
        split: The folder or archive in it.
        max_images: Take only the first images of the order above; None for all.
        order: See `ordered`.

    Attributes:
        notes: What a reader of the numbers must know: files that were left out, and an order of the classes that others do not share.

    Raises:
        DatasetError: A folder or archive is missing, damaged or without images, or images lie in no class folder.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None, split: str = "val", max_images: int | None = None, order: str | None = None
    ) -> None:
        """List the images; none is read."""
        if max_images is not None and (type(max_images) is not int or max_images < 1):
            raise DatasetError(f"data set 'imagefolder': max_images is {max_images!r}, allowed are integers >= 1 and null for all images")
        self.source = locate(root, split)
        self._reader = open_source(self.source)
        entries, leading = entries_of(self._reader, self.source, split)
        self.classes = ordered({e.folder for e in entries}, order)
        missed, unlike = left_out(self.source, leading), _about_order(self.classes, order)
        self.notes = tuple(filter(None, (missed, unlike)))
        if missed:
            warn_once(missed)
        if unlike:
            say_once(unlike)
        self._entries = _in_turn(entries)[:max_images]
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Return an image (H,W,3) uint8 RGB in its own size, and its label.

        EXIF turns are ignored, as timm does.

        Raises:
            DatasetError: The file is missing or no image; the message names it.
        """
        entry = self._entries[i]
        try:
            file, _ = self._reader[entry.number]
            with file, Image.open(file) as image:
                image.load()
                return to_rgb(image), self._labels[entry.folder]
        except (*UNREADABLE, KeyError) as error:
            raise DatasetError(
                f"{self.source}: the image {self.name(i)} cannot be read ({error}); is it missing or truncated? Fetch it again"
            ) from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[i] for i in range(len(self)))

    def name(self, i: int) -> str:
        """Return `<class>/<file>` of image i."""
        return f"{self._entries[i].folder}/{self._entries[i].file}"


def locate(root: str | os.PathLike[str] | None, split: str) -> Path:
    """Return the place of a split: the first of ROOT/split, ROOT/split.zip and ROOT/split.tar that exists, or ROOT if that is an archive.

    Raises:
        DatasetError: None of them exists.
    """
    if root is None or str(root) in ("", "???"):
        raise DatasetError(f"data set 'imagefolder': root is not given: set data.root=DIR; {_LAYOUT}")
    folder = Path(root).expanduser()
    if folder.is_file() and folder.suffix in ARCHIVES:
        return folder
    if not folder.is_dir():
        what = "is neither a folder nor a .zip or .tar" if folder.exists() else "no such folder"
        raise DatasetError(f"{folder}: {what}: set data.root=DIR; {_LAYOUT}")
    for path in (folder / split, *(folder / f"{split}{ending}" for ending in ARCHIVES)):
        if path.is_dir() or (path.suffix in ARCHIVES and path.is_file()):
            return path
    present = ", ".join(sorted(entry.name for entry in os.scandir(folder))[:10]) or "nothing"
    names = f"{split}/, {split}.zip or {split}.tar"
    raise DatasetError(f"{folder}: no {names}; there is: {present}: set data.train_split and data.val_split; {_LAYOUT}")


def class_folders(root: str | os.PathLike[str] | None, split: str, order: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the class folders of a split in their order; None if it is missing, an archive, or has no class folders."""
    try:
        place = locate(root, split)
    except DatasetError:
        return None
    names = {e.name for e in os.scandir(place) if e.is_dir() and not is_hidden([e.name])} if place.is_dir() else {split}
    return None if names <= {split} else ordered(names, order)


def ordered(names: Iterable[str], order: str | None = None) -> tuple[str, ...]:
    """Return the names of class folders in the order of their labels.

    Args:
        names: The names.
        order: `text` sorts by characters, as torchvision does (10 before 2); `natural` sorts numbers by their value, as timm does. None
            sorts names that are all numbers by their value, and others by characters.

    Raises:
        DatasetError: There is no such order.
    """
    if order not in ORDERS:
        raise DatasetError(f"data set 'imagefolder': order is {order!r}, allowed are text, natural and null: set data.order")
    names = sorted(names)
    if order == "natural":
        return tuple(sorted(names, key=natural_key))
    return tuple(sorted(names, key=int) if order is None and _are_numbers(names) else names)


def _are_numbers(names: Sequence[str]) -> bool:
    return all(n.isascii() and n.isdecimal() for n in names) and len({int(n) for n in names}) == len(names)


def _about_order(classes: tuple[str, ...], order: str | None) -> str:
    """Return words for an order of the classes in which timm and torchvision differ, "" if they agree or the user chose it."""
    text, natural = tuple(sorted(classes)), tuple(sorted(classes, key=natural_key))
    if order is not None or text == natural:
        return ""
    place = next(i for i, (a, b) in enumerate(zip(text, natural, strict=True)) if a != b)
    ours = "numbers by their value, as timm does" if classes == natural else "names by their characters, as torchvision does"
    return (
        f"labels are in the order of the folders' {ours}: label {place} is {classes[place]!r}. A head that was trained elsewhere may have"
        f" {(text if classes == natural else natural)[place]!r} there: set data.order={'text' if classes == natural else 'natural'} for it"
    )


def _in_turn(entries: list[Entry]) -> list[Entry]:
    """Return every class's first image, then every class's second, and so on. The order within a class depends on the names alone."""
    keyed = sorted((zlib.crc32(f"{e.folder}/{e.file}".encode()), e.folder, e.file, e.number) for e in entries)
    turns: dict[str, int] = defaultdict(int)
    ranked = []
    for place, (_, folder, file, number) in enumerate(keyed):
        ranked.append((turns[folder], place, Entry(number, folder, file)))
        turns[folder] += 1
    return [entry for _, _, entry in sorted(ranked, key=lambda r: r[:2])]
