"""Holds a lock for one row, so that one process at a time works on it.

The kernel drops the lock when its process ends, so no lock is ever stale.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenprune.utils import console, distributed


@contextmanager
def locked(path: Path | str, what: str) -> Iterator[bool]:
    """Hold the lock file `path` for the body, and wait while another run holds it. Of a run's several processes the main one holds it.

    Args:
        path: The file, which is created if missing and left in place (removing it would let two processes hold "the same" lock).
        what: Name of the work that is waited for, in the message.

    Yields:
        True if it had to wait, so that the caller checks again if the work is done.
    """
    if not distributed.is_main():
        yield False
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        waited = _acquire(handle, what)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield waited
    finally:
        os.close(handle)  # releases the lock


def _acquire(handle: int, what: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        console.say(f"waiting for {what}: process {owner} is at it")
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
