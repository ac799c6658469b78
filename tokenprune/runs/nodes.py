"""Configurations that are no files of their own: rows of tables, rules, plugins, published files. Hydra reads them through `tokenprune://FOLDER`."""

from functools import cache
from pathlib import Path
from typing import Any

from tokenprune.runs.plugin_options import plugin_nodes
from tokenprune.runs.published import published_nodes
from tokenprune.runs.rows import row_nodes
from tokenprune.runs.rules import rule_nodes
from tokenprune.runs.zoo_rows import zoo_nodes
from tokenprune.utils.paths import config_dir

GLOBAL = ("rows", "experiment", "method", "zoo")  # groups whose options set values anywhere


@cache
def nodes(folder: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {group: {option: configuration}} of a folder of configurations; the project's own has plugins and published files, too.

    Each folder is read once a process.

    Raises:
        InvalidConfig: a file of rows or rules that cannot be read.
    """
    own = {**plugin_nodes(), **zoo_nodes(), **published_nodes(Path(folder))} if Path(folder) == config_dir() else {}
    return {**rule_nodes(Path(folder)), **row_nodes(Path(folder)), **own}


def package_of(group: str) -> str | None:
    """Return where the options of a group are put: `_global_`, or None for the group's own place."""
    return "_global_" if group.split("/")[0] in GLOBAL else None
