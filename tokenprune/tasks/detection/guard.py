"""Checks that Detectron2 is installed, without importing it."""

import importlib.util
from pathlib import Path

from tokenprune.errors import MissingDependency

INSTALL_COMMAND = "python -m tokenprune.install_detectron2"


def find_detectron2() -> Path | None:
    """Return the folder of the importable Detectron2 (official or repacked), or None.

    A bare folder named `detectron2` on the path, such as a clone's top level, is a namespace package and does not count.
    """
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def require_detectron2() -> None:
    """Check that Detectron2 is importable.

    Raises:
        MissingDependency: It is not. The message is one line with the command that installs it.
    """
    if find_detectron2() is None:
        raise MissingDependency(
            f"Detectron2 is not installed: run `{INSTALL_COMMAND}` (or `make setup`), or install the official package; "
            "task=classification runs without it"
        )
