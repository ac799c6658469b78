"""Where Hydra finds configurations: folders `conf` of plugin packages, and rows, rules and plugins, which are no files of their own.

A composition asks for about sixty configurations, and Hydra reads each from its file. Tables have hundreds of rows, so the files that do
not change while a process runs, this project's and Hydra's own, are read once a process (`KeptConfigs`).
"""

import importlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from tokenprune.runs.nodes import Groups, nodes, package_of
from tokenprune.runs.rule_lists import choices_in, held, merged, rule_lists
from tokenprune.runs.rules import GROUP as RULES
from tokenprune.runs.sources import folders, given_folders, plugin_folders
from tokenprune.utils.paths import config_dir

SCHEME, KEPT = "tokenprune", "kept"
LAUNCHERS = "hydra_plugins.tokenprune_launchers"


def register_sources() -> None:
    """Make the classes below and the project's launchers known to Hydra, which does not find them in an editable install by itself."""
    known = Plugins.instance()
    known.register(PluginConfigs)
    known.register(DataConfigs)
    known.register(KeptConfigs)
    with suppress(ImportError):  # the extra `sweeps` is not installed
        for _, launcher in inspect.getmembers(importlib.import_module(LAUNCHERS), inspect.isclass):
            if issubclass(launcher, Launcher) and launcher.__module__ == LAUNCHERS and not inspect.isabstract(launcher):
                known.register(launcher)


class PluginConfigs(SearchPathPlugin):
    """Appends the folders of plugins and the rows, rules and plugins of each folder, so that files of tokenprune come first.

    The places of files that do not change go through `KeptConfigs`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders that exist; packages are found, not imported, so that a broken one does no harm here."""
        present = [str(place.path).removeprefix(f"{KEPT}://").removeprefix("file://") for place in search_path.get_path()]
        if str(config_dir()) not in present:
            return  # another program in this process
        for folder in given_folders():  # Hydra adds it for its own command line; other commands compose without one
            if str(folder) not in present:
                search_path.append("command-line", f"file://{folder}")
        for name, folder in plugin_folders():
            search_path.append(name, f"file://{folder}")
        for folder in folders():
            search_path.append(SCHEME, f"{SCHEME}://{folder}")
        for place in search_path.get_path():
            if place.path == "pkg://hydra.conf":
                place.path = f"{KEPT}://{place.path}"
            elif place.path.removeprefix("file://") == str(config_dir()):
                place.path = f"{KEPT}://file://{config_dir()}"


class DataConfigs(ConfigSource):
    """Serves `tokenprune.runs.nodes` of one folder. It holds no data itself, because Hydra copies every source for every composition."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the paths of this source."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the configuration of GROUP/OPTION."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        rules = self._list_of_rules(group)
        config = OmegaConf.create(merged(list(held(rules, choices_in(name)))) if rules else self._nodes()[group][name])
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header={"package": package_of(group)})

    def available(self) -> bool:
        """Return True: the folder was there when the search path was made."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Tell whether there are options below a path."""
        path = config_path.rstrip("/")
        return any(f"{group}/".startswith(f"{path}/") for group in self._nodes())

    def is_config(self, config_path: str) -> bool:
        """Tell whether GROUP/OPTION exists."""
        group, _, name = config_path.rstrip("/").removesuffix(".yaml").rpartition("/")
        return bool(self._list_of_rules(group)) or name in self._nodes().get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the groups or the options below a path, sorted."""
        path = config_path.strip("/")
        start = f"{path}/" if path else ""
        groups = {group.removeprefix(start).split("/")[0] for group in self._nodes() if group.startswith(start)}
        options = set(self._nodes().get(path, {}))
        chosen = {ObjectType.GROUP: groups, ObjectType.CONFIG: options}
        return sorted(groups | options if results_filter is None else chosen.get(results_filter, set()))

    def _nodes(self) -> Groups:
        return nodes(self.path)

    def _list_of_rules(self, group: str) -> str:
        """Return the name of the list that a group stands for, which has an option for any choices; "" for other groups."""
        start, _, name = group.rpartition("/")
        return name if start == RULES and self.path == str(config_dir()) and name in rule_lists(config_dir()) else ""


class KeptConfigs(ConfigSource):
    """Serves another source, `kept://file:///FOLDER` for example, and reads each of its configurations once a process.

    It holds no data itself, because Hydra copies every source for every composition.
    """

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the paths of this source."""
        return KEPT

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a copy of a configuration."""
        provider, path, content, header = _kept(self.provider, self.path, "load_config", config_path)
        return ConfigResult(provider=provider, path=path, config=OmegaConf.create(content), header=dict(header))

    def available(self) -> bool:
        """Tell whether the other source is there."""
        return _kept(self.provider, self.path, "available")

    def is_group(self, config_path: str) -> bool:
        """Tell whether there are options below a path."""
        return _kept(self.provider, self.path, "is_group", config_path)

    def is_config(self, config_path: str) -> bool:
        """Tell whether there is such a configuration."""
        return _kept(self.provider, self.path, "is_config", config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the groups or the options below a path, sorted."""
        return _kept(self.provider, self.path, "list", config_path, results_filter)


@cache
def _kept(provider: str, path: str, name: str, *asked: Any) -> Any:
    """Return what a source says, read once; a configuration as (provider, path, plain content, header)."""
    found = _source(provider, path, name)(*asked)
    return (found.provider, found.path, OmegaConf.to_container(found.config), found.header) if isinstance(found, ConfigResult) else found


def _source(provider: str, path: str, name: str) -> Callable[..., Any]:
    scheme = path.partition("://")[0]
    kind = next(kind for kind in Plugins.instance().discover(ConfigSource) if kind.scheme() == scheme)
    return getattr(kind(provider, path), name)
