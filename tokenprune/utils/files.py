"""Writes files so that readers see them whole or not at all, and tells their content by short digests."""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from tokenprune.utils import console

_READ_UP_TO = 64 << 20  # bytes
_PROBE = 1 << 16  # bytes
_FULL = re.compile(r"No space left|os error|file write failed|Read-only|quota|unexpected pos", re.IGNORECASE)


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


@contextmanager
def saving(what: Path | str) -> Iterator[list[str]]:
    """Write in the body; what cannot be written is said and costs nothing else.

    Args:
        what: The file or folder, for the message.

    Yields:
        An empty list, which holds the reason afterwards if the body could not write.
    """
    problems: list[str] = []
    try:
        yield problems
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own for a full disk
        if not isinstance(error, OSError) and not _FULL.search(str(error)):
            raise
        problems.append(f"cannot write {what}: {error.strerror if isinstance(error, OSError) and error.strerror else error}")
        console.fail(problems[0])


def obstacle(folder: Path | str) -> str | None:
    """Return why nothing can be written into a folder, which is made if it is not there; None if nothing is in the way."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"cannot write into {folder}: {error.strerror or error}; give another folder (results_dir=DIR), or make it writable or room"
    return None


def digest(path: Path | str) -> str:
    """Return 16 hexadecimal digits of the content of a file, all of which is read; the path itself where there is no file."""
    path = Path(path)
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)  # rows of a sweep ask for the same weights again and again
def _digest(path: str, size: int, time: int) -> str:
    return sha256(path)[:16]


def sha256(path: Path | str) -> str:
    """Return the sha256 of the content of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _in_parts(file)


def _in_parts(file: BinaryIO) -> str:  # Python 3.10
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()


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
