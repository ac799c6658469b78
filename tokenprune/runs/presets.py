"""Method presets (conf/method/*.yaml) read outside Hydra: what a method chooses, for lists and reports."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tokenprune.utils.paths import config_dir


def files(group: str) -> list[Path]:
    """Return the YAML files of a configuration group, sorted by name."""
    return sorted((config_dir() / group).glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    """Return one YAML file as it stands, its defaults list not followed."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def choices(method: dict[str, Any]) -> dict[str, str]:
    """Return what a preset's defaults list chooses, e.g. {"selector": "evit", "treatment": "remove", "schedule": "stages"}."""
    found = {}
    for entry in method.get("defaults", []):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            found[key.removeprefix("override").strip().removeprefix("/")] = str(value)
    return found
