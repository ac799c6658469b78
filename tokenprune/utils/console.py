"""Prints, as the only module and in the main process only. Progress bars appear on a terminal only, so logs stay quiet."""

import sys
from collections.abc import Iterable
from functools import cache
from typing import TextIO, TypeVar

from tqdm import tqdm

from tokenprune.utils import distributed

T = TypeVar("T")


def program(name: str) -> str:
    """Return how a command was started, for its usage line: `tokenprune NAME`, or `python -m tokenprune.NAME`.

    Args:
        name: Name of the command, such as `export`.
    """
    words = f"tokenprune {name}"  # as `tokenprune.cli` leaves it in the arguments of the process
    return words if sys.argv[0] == words else f"python -m tokenprune.{name.replace('-', '_')}"


def say(text: str = "") -> None:
    """Write one line (or a block) of results to standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Write a warning to standard error."""
    _print(f"warning: {text}", sys.stderr)


def say_if(text: str) -> None:
    """Write one line to standard output if there is something to say."""
    if text:
        say(text)


@cache
def say_once(text: str) -> None:
    """Write one line to standard output unless this process has written it before."""
    say(text)


@cache
def warn_once(text: str) -> None:
    """Write a warning to standard error unless this process has written it before: data are opened again for each row of a sweep."""
    warn(text)


def fail(text: str) -> None:
    """Write an error to standard error."""
    _print(f"error: {text}", sys.stderr)


def progress(items: Iterable[T], description: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """Wrap `items` in a progress bar that stays silent if standard error is no terminal."""
    quiet = not (sys.stderr.isatty() and distributed.is_main())
    return tqdm(items, desc=description, total=total, initial=initial, leave=False, disable=quiet, dynamic_ncols=True)


def _print(text: str, stream: TextIO) -> None:
    if distributed.is_main():
        print(text, file=stream, flush=True)
