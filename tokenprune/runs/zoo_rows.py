"""Published files as choices of the command line: `zoo=NAME zoo.folder=FOLDER` judges FOLDER/FILE as its authors do."""

from pathlib import Path
from typing import Any

from tokenprune.runs.rows import node
from tokenprune.zoo.catalog import Entry, entries

GROUP = "zoo"
# The pictures that a published file is judged on have the size of its model, whatever `scale` says.
_PHOTOGRAPHS = {"data": "imagefolder", "data.side": "${backbone.img_size}", "task.token_labels": 0.0}
_DATA = {"classification": _PHOTOGRAPHS, "detection": {"data": "coco"}}


def zoo_nodes() -> dict[str, dict[str, Any]]:
    """Return {name: configuration} of all entries that can be loaded; conf/zoo/none.yaml stands for none of them."""
    return {name: node(row) for name, row in zoo_rows().items()}


def zoo_rows() -> dict[str, dict[str, Any]]:
    """Return {name: row} of all entries that can be loaded, each as a row of a table."""
    return {entry.name: row_of(entry) for entry in entries() if not entry.refused}


def row_of(entry: Entry) -> dict[str, Any]:
    """Return the choices and values of the run that judges a published file: nothing is trained."""
    start = {"init": f"${{zoo_file:${{zoo.folder}},{entry.file}}}", "training.iterations": 0, "label": entry.name}
    return {"scale": "paper", "task": entry.task, **_DATA.get(entry.task, {}), **entry.run, **start}


def zoo_file(folder: str | None, file: str) -> str:
    """Return the path of a published file: FOLDER/FILE, or FILE where no folder is given."""
    return str(Path(folder).expanduser() / file) if folder else file


def entries_for(task: str) -> str:
    """Return the names of a task's entries that can be loaded and have printed numbers, with commas, as an axis of a sweep is written."""
    return ",".join(entry.name for entry in entries() if entry.task == task and entry.printed and not entry.refused)
