"""Rows of tables as data: conf/rows/NAME.yaml lists the rows of `+experiment=NAME`, each as a person would type it.

A row is a mapping whose keys are those of the command line: groups (`method: evit`) and values (`schedule.total: 0.9`). Hydra gets each as
an option of the group `rows/NAME`, numbered in the order of the file, so that `+rows/NAME=glob(*)` sweeps over all of them in that order.
A file of rows without a file conf/experiment/NAME.yaml is an experiment by itself, which runs all of its rows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tokenprune.errors import InvalidConfig, hint
from tokenprune.runs.sources import folders, is_group, read_data, shown

GROUP = "rows"


def row_groups(folder: Path) -> dict[str, Callable[[], dict[str, dict[str, Any]]]]:
    """Return {"rows/NAME": reader of its rows as Hydra's configurations are} of FOLDER/rows/NAME.yaml, and an experiment for each."""
    files = sorted((folder / GROUP).glob("*.yaml"))
    experiments = {path.stem: _experiment(path.stem) for path in files}
    return {"experiment": lambda: experiments, **{f"{GROUP}/{path.stem}": partial(_nodes_in, path) for path in files}}


def _nodes_in(path: Path) -> dict[str, dict[str, Any]]:
    return {name: node(row) for name, row in rows_in(path).items()}


def _experiment(table: str) -> dict[str, Any]:
    return {"experiment": table, "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {f"+{GROUP}/{table}": "glob(*)"}}}}


def tables() -> dict[str, Path]:
    """Return {name: file} of all tables; the project's own come first and keep their names."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / GROUP).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def rows_of(table: str) -> dict[str, dict[str, Any]]:
    """Return {numbered name: {key of the command line: value}} of the table's file, in its order.

    Raises:
        InvalidConfig: no such file, or one that does not map names of rows to their choices.
    """
    known = tables()
    if table not in known:
        raise InvalidConfig(f"there is no table of rows {table!r}.{hint(table, list(known))} Allowed: {', '.join(sorted(known))}")
    return rows_in(known[table])


def rows_in(path: Path) -> dict[str, dict[str, Any]]:
    """Return {numbered name: {key of the command line: value}} of a file of rows.

    Raises:
        InvalidConfig: the file does not map names of rows to their choices.
    """
    rows = read_data(path)
    wanted = "a mapping from names of rows to their choices, e.g. `evit_remove: {method: evit, treatment: remove}`"
    if not isinstance(rows, dict) or not rows:
        raise InvalidConfig(f"{shown(path)} holds no rows; allowed: {wanted}")
    wrong = [str(name) for name, row in rows.items() if not isinstance(row, dict)]
    if wrong:
        raise InvalidConfig(f"{shown(path)}: no choices in row {', '.join(wrong)}; allowed: {wanted}")
    width = max(2, len(str(len(rows) - 1)))
    return {f"{number:0{width}d}_{name}": row for number, (name, row) in enumerate(rows.items())}


def split(row: Mapping[str, Any]) -> tuple[dict[str, str], DictConfig]:
    """Return what a row chooses, as {group: option}, and the values that it sets, nested as Hydra's configurations are."""
    groups, values = _parted(row)
    return groups, OmegaConf.create(values)


def node(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row as Hydra's configurations are: choices of groups as its defaults list, values as they are nested."""
    groups, values = _parted(row)
    return {"defaults": [*({f"override /{group}": name} for group, name in groups.items()), "_self_"], **values}


def _parted(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    groups = {key: value for key, value in row.items() if isinstance(value, str) and "." not in key and is_group(key)}
    values: dict[str, Any] = {}
    for key, value in ((key, value) for key, value in row.items() if key not in groups):
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = {**place.get(last, {}), **value} if isinstance(value, Mapping) else value
    return groups, values
