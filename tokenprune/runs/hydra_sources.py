"""Where Hydra finds configurations: folders `conf` of plugin packages, and rows, rules and plugins, which are no files of their own."""

import importlib
import inspect
from contextlib import suppress

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from tokenprune.runs.nodes import nodes, package_of
from tokenprune.runs.sources import folders, given_folders, plugin_folders
from tokenprune.utils.paths import config_dir

SCHEME = "tokenprune"
LAUNCHERS = "hydra_plugins.tokenprune_launchers"


def register_sources() -> None:
    """Make the two classes below and the project's launchers known to Hydra, which does not find them in an editable install by itself."""
    known = Plugins.instance()
    known.register(PluginConfigs)
    known.register(DataConfigs)
    with suppress(ImportError):  # the extra `sweeps` is not installed
        for _, launcher in inspect.getmembers(importlib.import_module(LAUNCHERS), inspect.isclass):
            if issubclass(launcher, Launcher) and launcher.__module__ == LAUNCHERS and not inspect.isabstract(launcher):
                known.register(launcher)


class PluginConfigs(SearchPathPlugin):
    """Appends the folders of plugins and the rows, rules and plugins of each folder, so that files of tokenprune come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders that exist; packages are found, not imported, so that a broken one does no harm here."""
        present = [str(place.path).removeprefix("file://") for place in search_path.get_path()]
        if str(config_dir()) not in present:
            return  # another program in this process
        for folder in given_folders():  # Hydra adds it for its own command line; other commands compose without one
            if str(folder) not in present:
                search_path.append("command-line", f"file://{folder}")
        for name, folder in plugin_folders():
            search_path.append(name, f"file://{folder}")
        for folder in folders():
            search_path.append(SCHEME, f"{SCHEME}://{folder}")


class DataConfigs(ConfigSource):
    """Serves `tokenprune.runs.nodes` of one folder. It holds no data itself, because Hydra copies every source for every composition."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the paths of this source."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the configuration of GROUP/OPTION."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        config = OmegaConf.create(self._nodes()[group][name])
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
        return name in self._nodes().get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the groups or the options below a path, sorted."""
        path = config_path.strip("/")
        start = f"{path}/" if path else ""
        groups = {group.removeprefix(start).split("/")[0] for group in self._nodes() if group.startswith(start)}
        options = set(self._nodes().get(path, {}))
        chosen = {ObjectType.GROUP: groups, ObjectType.CONFIG: options}
        return sorted(groups | options if results_filter is None else chosen.get(results_filter, set()))

    def _nodes(self) -> dict[str, dict[str, dict]]:
        return nodes(self.path)
