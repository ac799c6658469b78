"""Reads labelled images from a folder, tar or zip of class folders, through a timm reader that opens its archive once a process."""

import io
import os
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar, TarState

from tokenprune.errors import DatasetError

ARCHIVES = (".zip", ".tar")
UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, SyntaxError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


# What macOS, Windows, Linux, NAS boxes and Python leave in a folder, in small letters; names that begin with a dot are hidden anyway.
_OF_SYSTEMS = {
    "__macosx", "__pycache__", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "recycler", "system volume information",
    "lost+found", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "network trash folder", "temporary items",
}  # fmt: skip


class ReaderImageInZip(Reader):
    """Reads images from a zip: item i is (open file, class index), classes sorted by name. timm has readers of folders and tars only.

    Args:
        root: The zip.

    Raises:
        BadZipFile: The file is no zip.
        OSError: The file cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Read the directory of the zip only."""
        super().__init__()
        self.root, self.process, self.zip = root, -1, None
        known = get_img_extensions(as_set=True)
        with zipfile.ZipFile(root) as file:
            self.samples = [name for name in file.namelist() if PurePosixPath(name).suffix.lower() in known]
        self.class_to_idx = {name: i for i, name in enumerate(sorted({_folder(name) for name in self.samples}))}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        if self.process != os.getpid():  # a forked worker would share its parent's place in the file
            self.zip, self.process = zipfile.ZipFile(self.root), os.getpid()
        name = self.samples[index]
        return io.BytesIO(self.zip.read(name)), self.class_to_idx[_folder(name)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process": -1, "zip": None}  # an open file cannot be pickled; the worker opens its own

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        return PurePosixPath(self.samples[index]).name if basename else self.samples[index]


class ReaderImageInOneTar(ReaderImageInTar):
    """Reads one tar, or a tar of tars, by timm's reader; each worker process reopens it, and its index is never cached on disk.

    Args:
        root: The tar.

    Raises:
        TarError: The file is no tar.
        OSError: The file cannot be read.
        ValueError: It holds no image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Scan the whole tar once, because a tar has no directory."""
        super().__init__(str(root), cache_tarinfo=False)
        self.process = -1

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.process != os.getpid():
            self.tar_state, self.process = _unopened(self.tar_state), os.getpid()
        return super().__getitem__(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process": -1, "tar_state": _unopened(self.tar_state)}

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Return the path in the tar. For a tar inside it, the folder is the inner tar's name without the ending."""
        info, _, parent = self.samples[index]
        path = PurePosixPath(info.path if parent is None else f"{parent.path.removesuffix('.tar')}/{info.path}")
        return path.name if basename else str(path)


class Entry(NamedTuple):
    """Describes one image of a source.

    Attributes:
        number: Its index in the reader.
        folder: Its class folder.
        file: Its file name.
    """

    number: int
    folder: str
    file: str


def open_source(path: Path) -> Reader:
    """Return the timm reader of a folder of class folders, a .tar or a .zip.

    Raises:
        DatasetError: The source cannot be read or holds no image.
    """
    kinds = {".zip": ReaderImageInZip, ".tar": ReaderImageInOneTar}
    try:
        reader = ReaderImageFolder(str(path)) if path.is_dir() else kinds[path.suffix](path)
    except UNREADABLE as error:
        if type(error) not in (RuntimeError, ValueError):  # timm's for a folder and for a tar without images
            raise DatasetError(f"{path}: the archive cannot be read ({error}); is it complete? Fetch or pack it again") from error
        reader = ()
    if not len(reader):
        raise DatasetError(f"{path}: there is no image in it, allowed are {_endings()} in class folders; fetch the data set again")
    return reader


def entries_of(reader: Reader, path: Path, split: str) -> tuple[list[Entry], tuple[str, ...]]:
    """Return the images of one split: those under `<split>/<class>/` if there are any, else those under `<class>/`.

    Hidden files and folders, and those that systems leave beside images, are passed over.

    Returns:
        The images, and the folders above the class folders: (split,) or ().

    Raises:
        DatasetError: All images are elsewhere, images lie in no class folder, or a class folder has no images.
    """
    parts = [PurePosixPath(reader.filename(i)).parts for i in range(len(reader))]
    for leading in ((split,), ()):
        found = [Entry(i, p[-2], p[-1]) for i, p in enumerate(parts) if p[:-2] == leading and len(p) > 1 and not is_hidden(p)]
        if found and not (leading == () and any(e.folder == split for e in found)):
            _require_full(path, {e.folder for e in found})
            return found, leading
    first = "/".join(parts[0])
    raise DatasetError(
        f"{path}: its images are not in class folders of the split {split!r}: the first is {first!r}; allowed are <class>/<file>"
        f" and {split}/<class>/<file>: pack it again, or name the split by data.train_split and data.val_split"
    )


def left_out(path: Path, leading: tuple[str, ...]) -> str:
    """Return words for the files of the class folders that are not read, "" if there are none.

    These are files with other endings, and images in folders inside a class folder. Hidden files are not counted.

    Args:
        path: A folder, zip or tar.
        leading: The folders above its class folders.
    """
    known, depth, others, deeper = get_img_extensions(as_set=True), len(leading), Counter(), []
    for parts, names in _folders_in(path):
        if parts[:depth] != leading or len(parts) <= depth or is_hidden(parts):
            continue
        endings = [(name, os.path.splitext(name)[1].lower()) for name in names]
        unread = [ending or "no ending" for name, ending in endings if ending not in known and ending != ".tar" and not is_hidden([name])]
        others.update(unread)
        if len(parts) > depth + 1:
            deeper += ["/".join((*parts, name)) for name, ending in endings if ending in known and not name.startswith(".")]
    words = []
    if others:
        words.append(other_endings(others, f"images are {_endings()}"))
    if deeper:
        words.append(f"{len(deeper)} images in folders inside a class folder, the first is {min(deeper)}")
    return f"{path}: left out: {' and '.join(words)}" if words else ""


def other_endings(counts: Counter[str], allowed: str) -> str:
    """Return words for files that are not read because of their endings.

    Args:
        counts: {ending: number of files}.
        allowed: Words for the endings that are read.
    """
    listed = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(6)) + ", ..." * (len(counts) > 6)
    return f"{sum(counts.values())} files with other endings ({listed}; {allowed})"


def _folders_in(path: Path) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield (parts of a folder's path, names of its files) of a folder, zip or tar; a tar inside a tar is one file."""
    if path.is_dir():
        for place, _, files in os.walk(path, followlinks=True):
            yield Path(place).relative_to(path).parts, files
        return
    found: dict[str, list[str]] = defaultdict(list)
    for name in _names_in(path):
        folder, _, file = name.rpartition("/")
        found[folder].append(file)
    yield from ((PurePosixPath(folder).parts, files) for folder, files in found.items())


def _names_in(archive: Path) -> list[str]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return [name for name in opened.namelist() if not name.endswith("/")]
    with tarfile.open(archive) as opened:
        return [member.name for member in opened if member.isfile()]


def is_hidden(parts: Iterable[str]) -> bool:
    """Tell if a path below the root is hidden or what a system leaves beside the images, such as .ipynb_checkpoints or __MACOSX."""
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in parts)


def _require_full(path: Path, folders: set[str]) -> None:
    if path.is_dir():
        empty = sorted(e.name for e in os.scandir(path) if e.is_dir() and not is_hidden([e.name]) and e.name not in folders)
        if empty:
            raise DatasetError(
                f"{path}: {_some(empty)} without an image right in it; each class folder holds images ({_endings()}): fill or remove it"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} class folder{'s' * (len(names) > 1)} ({shown})"


def _endings() -> str:
    return ", ".join(get_img_extensions())


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name


def _unopened(state: TarState) -> TarState:
    fresh = TarState(ti=state.ti)
    fresh.children = {name: _unopened(child) for name, child in state.children.items()}
    return fresh
