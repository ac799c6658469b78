"""Where Hydra looks for the configurations of plugins: the folder `conf` of each package with an entry point `tokenprune.plugins`."""

import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class PluginConfigs(SearchPathPlugin):
    """Appends them, so that tokenprune's own configurations come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders that exist; packages are found, not imported, so that a broken one does no harm here."""
        if "tokenprune" not in sys.modules:  # a program of somebody else, who has Hydra look for plugins too
            return
        from tokenprune.registry import ENTRY_POINT_GROUP
        from tokenprune.utils.paths import config_dir

        if not any(str(place.path).removeprefix("file://") == str(config_dir()) for place in search_path.get_path()):
            return
        for point in entry_points(group=ENTRY_POINT_GROUP):
            spec = find_spec(point.module.partition(".")[0])
            for folder in (spec.submodule_search_locations or ()) if spec else ():
                if (Path(folder) / "conf").is_dir():
                    search_path.append(point.name, f"file://{Path(folder) / 'conf'}")
