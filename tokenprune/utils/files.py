"""Writes files so that readers see them whole or not at all, and tells their content by short digests."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_READ_UP_TO = 64 << 20  # bytes


def atomic_write(path: Path | str, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there: readers see the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        _sync(part)
        os.chmod(part, 0o666 & ~_umask())  # mkstemp makes private files; a checkpoint is shared like any other
        os.replace(part, path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path | str) -> str:
    """Return 16 hexadecimal digits of the content of a file, all of which is read; the path itself where there is no file."""
    path = Path(path)
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)  # rows of a sweep ask for the same weights again and again
def _digest(path: str, size: int, time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16] if hasattr(hashlib, "file_digest") else _in_parts(file)


def _in_parts(file: BinaryIO) -> str:  # Python 3.10
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()[:16]


def folder_digest(folder: Path | str) -> str:
    """Return 16 hexadecimal digits of all files below a folder: of names and contents up to 64 MiB in all, else of names, sizes and times.

    So a copy of a small folder has the same digest, and millions of images are not read.
    """
    folder = Path(folder)
    paths = sorted(Path(place) / name for place, _, files in os.walk(folder, followlinks=True) for name in files)
    stats = [path.stat() for path in paths]
    small, found = sum(stat.st_size for stat in stats) <= _READ_UP_TO, hashlib.sha256()
    for path, stat in zip(paths, stats, strict=True):
        told = digest(path) if small else f"{stat.st_size} {stat.st_mtime_ns}"
        found.update(f"{path.relative_to(folder)}: {told}\n".encode(errors="surrogateescape"))
    return found.hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
