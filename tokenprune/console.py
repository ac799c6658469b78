"""The only place that prints. Progress bars appear on a terminal only, so logs stay quiet."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(text: str = "") -> None:
    """Write one line (or a block) of results to standard output."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Write a warning to standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """Write an error to standard error."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def progress(items: Iterable[T], description: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """Wrap `items` in a progress bar that stays silent when standard error is no terminal."""
    return tqdm(items, desc=description, total=total, initial=initial, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
