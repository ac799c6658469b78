"""Folders of configurations: the project's own, those of plugin packages, and the one given with --config-dir."""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tokenprune.errors import InvalidConfig
from tokenprune.registry import ENTRY_POINT_GROUP
from tokenprune.utils.paths import config_dir

_FLAGS = ("--config-dir", "-cd")


def folders() -> list[Path]:
    """Return every folder of configurations, the project's own first; folders that do not exist are left out."""
    own = config_dir()
    plugins = [folder for _, folder in plugin_folders()]
    return list(dict.fromkeys(folder for folder in (own, *plugins, *given_folders()) if folder.is_dir()))


@cache
def plugin_folders() -> list[tuple[str, Path]]:
    """Return (entry point, folder `conf` of its package); packages are found, not imported, so that a broken one does no harm here."""
    found = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = find_spec(point.module.partition(".")[0])
        except (ImportError, ValueError):
            continue
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(place) / "conf").is_dir():
                found.append((point.name, Path(place) / "conf"))
    return found


def is_group(key: str) -> bool:
    """Tell whether a key of the command line is a group, which is a folder of configurations or made of registered classes."""
    return key in ("selector", "treatment", "zoo") or any((folder / key).is_dir() for folder in folders())


def read_data(path: Path) -> Any:
    """Return the plain content of a YAML file, interpolations as they stand.

    Raises:
        InvalidConfig: the file is no YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError) as error:
        raise InvalidConfig(f"{shown(path)} cannot be read as YAML: {' '.join(str(error).split())}") from error


def shown(path: Path) -> str:
    """Return the end of a path, as messages name the file: conf/rows/NAME.yaml."""
    return "/".join(path.parts[-3:])


def given_folders() -> list[Path]:
    """Return the folder of `--config-dir FOLDER` (or -cd, or --config-dir=FOLDER) on the command line of this process."""
    return [Path(folder).expanduser().resolve() for folder in _split(sys.argv)[1]]


def folder_options() -> list[str]:
    """Return the options `--config-dir FOLDER` on the command line of this process, as they were typed."""
    return [word for folder in _split(sys.argv)[1] for word in ("--config-dir", folder)]


def without_folders(arguments: Sequence[str]) -> list[str]:
    """Return a command line without `--config-dir FOLDER`, for commands that do not leave it to Hydra."""
    return _split(arguments)[0]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    rest, named = [], []
    words = iter(arguments)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in _FLAGS:
            named.append(value or next(words, ""))
        else:
            rest.append(word)
    return rest, [folder for folder in named if folder]
