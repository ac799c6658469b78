"""Configurations that are no files of their own: rows of tables, rules, plugins, published files. Hydra reads them through `tokenprune://FOLDER`."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from tokenprune.runs.plugin_options import plugin_nodes
from tokenprune.runs.published import published_nodes
from tokenprune.runs.rows import row_groups
from tokenprune.runs.rules import rule_groups
from tokenprune.runs.zoo_rows import GROUP as ZOO
from tokenprune.runs.zoo_rows import zoo_nodes
from tokenprune.utils.paths import config_dir

GLOBAL = ("rows", "rules", "experiment", "method", "zoo")  # groups whose options set values anywhere
Options = Mapping[str, dict[str, Any]]  # {option: configuration}
_OF_PLUGINS = ("selector", "treatment", "schedule", "data", "method")
_OF_METHODS = ("rules/schedule_of_method", "rules/counts_of_method", "rules/answers_of_method")


class Groups(Mapping[str, Options]):
    """Maps each group to its options, which are read when they are first asked for: most runs need few of the groups.

    Args:
        readers: {group: what reads its options}.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Options]]) -> None:
        self._readers = {group: cache(reader) for group, reader in readers.items()}

    def __getitem__(self, group: str) -> Options:
        return self._readers[group]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, group: object) -> bool:
        return group in self._readers


@cache
def nodes(folder: str) -> Groups:
    """Return {group: {option: configuration}} of a folder of configurations; the project's own has plugins and published files, too.

    Each group is read once a process.

    Raises:
        InvalidConfig: a file of rows or rules that cannot be read, when its group is asked for.
    """
    readers = {**rule_groups(Path(folder)), **row_groups(Path(folder))}
    if Path(folder) == config_dir():
        plugins, methods = cache(plugin_nodes), cache(partial(published_nodes, Path(folder)))
        readers |= {group: partial(_part, plugins, group) for group in _OF_PLUGINS}
        readers |= {group: partial(_part, methods, group) for group in _OF_METHODS}
        readers[ZOO] = zoo_nodes
    return Groups(readers)


def _part(read: Callable[[], Mapping[str, Options]], group: str) -> Options:
    return read()[group]


def package_of(group: str) -> str | None:
    """Return where the options of a group are put: `_global_`, or None for the group's own place."""
    return "_global_" if group.split("/")[0] in GLOBAL else None
