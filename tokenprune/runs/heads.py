"""Checks of the head that a run judges: it was loaded or is trained, and its outputs stand for the classes of the data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import CheckpointMismatch, InvalidConfig
from tokenprune.runs.run import Run
from tokenprune.runs.run_key import STARTS
from tokenprune.utils import console
from tokenprune.utils.checkpoints import read_metadata
from tokenprune.utils.paths import weights_path

if TYPE_CHECKING:
    from torch import Tensor

    from tokenprune.tasks.base import Task

CLASS_NAMES = "class_names"  # in the header of a file of weights: a JSON list
_MARK = -(2.0**100)
_REMEDY = (
    "give init=FILE with a head for the classes of the data, train it (training.iterations above 0), or measure no accuracy: measure=[cost]"
)


def hidden_head(task: "Task", model: Any) -> "list[Tensor]":
    """Return the values of the head's parameters, and put a mark in their place that no file holds: loading removes it."""
    values = [parameter.detach().clone() for parameter in task.head(model)]
    for parameter in task.head(model):
        parameter.data.fill_(_MARK)
    return values


def check_head(task: "Task", model: Any, config: Run, untouched: "Sequence[Tensor]") -> list[str]:
    """Check the head of a model whose first weights are loaded, and give it back its random values where none were loaded.

    Random weights that were asked for (init=scratch) are said to be such.

    Args:
        task: The task.
        model: The model.
        config: The run.
        untouched: What `hidden_head` returned before the weights were loaded.

    Returns:
        Notes for the row.

    Raises:
        InvalidConfig: The head is random, is not trained, and would be judged.
        CheckpointMismatch: The file names the classes of its head, and they are not those of the data.
    """
    trained = bool(config.training.get("iterations"))
    judged = "accuracy" in config.measure and not trained
    missing = [(now, before) for now, before in zip(task.head(model), untouched, strict=True) if bool((now == _MARK).all())]
    for now, before in missing:
        now.data.copy_(before)
    if config.init == "scratch":
        if judged:
            console.say("init is scratch and training.iterations is 0: the accuracy is that of random weights")
        return []
    loaded = len(missing) < len(untouched)
    if untouched and not loaded and judged:
        raise InvalidConfig(f"init is {config.init}, which brings no head that fits, and training.iterations is 0: {_REMEDY}")
    path = _file(config)
    return _compare_classes(path, task.classes(config), trained) if loaded and path is not None else []


def _file(config: Run) -> Path | None:
    """Return the file that a run starts from; None for weights that another run makes, on the same data."""
    given = config.init_weights if config.init == "dense" else config.init
    return None if given is None or given in STARTS else weights_path(given)


def _names_in(path: Path) -> tuple[str, ...]:
    """Return the names of the head's classes that this project wrote into a file, () where there are none."""
    if path.is_dir():  # a folder of transformers has names of its own for people ("tench, Tinca tinca")
        return ()
    try:
        names = json.loads(read_metadata(path).get(CLASS_NAMES, "[]"))
    except ValueError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _compare_classes(path: Path, data: tuple[str, ...], trained: bool) -> list[str]:
    names = _names_in(path)
    if not names or not data or names == data:
        return []
    place = next((i for i, (a, b) in enumerate(zip(names, data, strict=False)) if a != b), min(len(names), len(data)))
    pair = [names[place] if place < len(names) else "none", data[place] if place < len(data) else "none"]
    said = f"output {place} of the head in {path.name} is {pair[0]!r}, and label {place} of the data is {pair[1]!r}"
    if sorted(names) == sorted(data):
        raise CheckpointMismatch(f"{said}: the same classes in another order; bring the data into the order of the file (data.order)")
    if not trained:
        raise CheckpointMismatch(f"{said}: the head is of other classes, and training.iterations is 0; use the data that it was made for")
    return [f"{said}: the head starts from other classes"]
