"""Rows of tables as data: conf/rows/NAME.yaml lists the rows of `+experiment=NAME`, each as a person would type it.

A row is a mapping whose keys are those of the command line: groups (`method: evit`) and values (`schedule.total: 0.9`). Hydra gets each as
an option of the group `rows/NAME`, numbered in the order of the file, so that `+rows/NAME=glob(*)` sweeps over all of them in that order.
"""

from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tokenprune.errors import InvalidConfig
from tokenprune.utils.paths import config_dir

GROUP = "rows"


@cache
def register_rows() -> None:
    """Make the rows of every table known to Hydra; the files are read once a process.

    Raises:
        InvalidConfig: a file that does not map names of rows to their choices.
    """
    store = ConfigStore.instance()
    for path in sorted((config_dir() / GROUP).glob("*.yaml")):
        for name, row in rows_of(path.stem).items():
            store.store(group=f"{GROUP}/{path.stem}", name=name, node=_node(row), package="_global_")


def rows_of(table: str) -> dict[str, dict[str, Any]]:
    """Return {numbered name: {key of the command line: value}} of conf/rows/TABLE.yaml, in the order of the file.

    Raises:
        InvalidConfig: no such file, or one that does not map names of rows to their choices.
    """
    path = config_dir() / GROUP / f"{table}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InvalidConfig(f"there is no table of rows {table!r}; allowed: {known}")
    try:
        rows = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError) as error:
        raise InvalidConfig(f"{_shown(path)} cannot be read as YAML: {' '.join(str(error).split())}") from error
    wanted = "a mapping from names of rows to their choices, e.g. `evit_remove: {method: evit, treatment: remove}`"
    if not isinstance(rows, dict) or not rows:
        raise InvalidConfig(f"{_shown(path)} holds no rows; allowed: {wanted}")
    wrong = [str(name) for name, row in rows.items() if not isinstance(row, dict)]
    if wrong:
        raise InvalidConfig(f"{_shown(path)}: no choices in row {', '.join(wrong)}; allowed: {wanted}")
    width = max(2, len(str(len(rows) - 1)))
    return {f"{number:0{width}d}_{name}": row for number, (name, row) in enumerate(rows.items())}


def _shown(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _node(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row as Hydra's configurations are: choices of groups as its defaults list, values as they are nested."""
    groups = {key: value for key, value in row.items() if (config_dir() / key).is_dir() and isinstance(value, str)}
    values = OmegaConf.create()
    for key, value in row.items():
        if key not in groups:
            OmegaConf.update(values, key, value, force_add=True)
    defaults = [{f"override /{group}": name} for group, name in groups.items()]
    return {"defaults": [*defaults, "_self_"], **OmegaConf.to_container(values, resolve=False)}
