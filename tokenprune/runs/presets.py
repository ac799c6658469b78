"""Method presets (conf/method/*.yaml) read outside Hydra: what a method chooses, for the list and for runs that name a selector alone."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tokenprune.engine.schedule import TARGET
from tokenprune.utils.paths import config_dir

_TAKEN = ("label", "method", "losses", "treatment_labels")


def files(group: str) -> list[Path]:
    """Return the YAML files of a configuration group, sorted by name."""
    return sorted((config_dir() / group).glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    """Return one YAML file as it stands, its defaults list not followed."""
    return OmegaConf.to_container(OmegaConf.load(path)) or {}


def choices(method: dict[str, Any]) -> dict[str, str]:
    """Return what a preset's defaults list chooses, e.g. {"selector": "evit", "treatment": "remove", "schedule": "stages"}."""
    found = {}
    for entry in method.get("defaults", []):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            found[key.removeprefix("override").strip().removeprefix("/")] = str(value)
    return found


def complete(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a run with a selector and no schedule (`selector=evit` alone) with the rest of the preset of that name.

    What was given stays: a treatment, a keep rate, losses. A selector without a preset (a plugin) takes what its class calls published.
    How the paper trains it (conf/when/recipe) comes with `method=evit` only: `training` was given, if only by the scale.
    """
    selector = plain["selector"]["name"]
    path = config_dir() / "method" / f"{selector}.yaml"
    method = read(path) if path.is_file() else _published(selector)
    method["losses"] = _losses(selector, method, plain)
    chosen = choices(method)
    given = {k: v for k, v in plain["schedule"].items() if k in ("keep_rate", TARGET) and v is not None}
    places = {"schedule": chosen["schedule"], "schedule/sizes": f"{chosen['schedule']}_{plain['scale']}"}
    places["when/plan"] = f"{selector}_{chosen['schedule']}"
    parts = [_of_group(group, name) for group, name in places.items()]
    schedule = {"name": chosen["schedule"], **{k: v for part in [*parts, method.get("schedule", {}), given] for k, v in part.items()}}
    own = {"name": chosen["treatment"], **_of_group("treatment", chosen["treatment"]), **method.get("treatment", {})}
    treatment = plain["treatment"] if plain["treatment"].get("name") != "none" else own
    options = {**plain["selector"], **_of_task(selector, plain)}
    return {**plain, **{k: method[k] for k in _TAKEN if k in method}, "selector": options, "schedule": schedule, "treatment": treatment}


def _published(selector: str) -> dict[str, Any]:
    from tokenprune.registry import get

    published = get("selector", selector).published
    axes = {axis: {"name": spec} if isinstance(spec, str) else dict(spec) for axis, spec in published.items()}
    return {"defaults": [{f"/{axis}": spec["name"]} for axis, spec in axes.items()], **axes, "method": selector, "label": selector}


def _of_task(selector: str, plain: dict[str, Any]) -> dict[str, Any]:
    """What a task sets in a selector (conf/when/method), but for options that were given another value than the selector's own."""
    own, added = _of_group("selector", selector), _added(f"{plain['task'].get('name')}_{selector}").get("selector", {})
    return {k: v for k, v in added.items() if plain["selector"].get(k) == own.get(k)}


def _losses(selector: str, method: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The losses of a preset and of what it adds to the task, with the options that were given."""
    added = _added(f"{plain['task'].get('name')}_{selector}")
    return OmegaConf.to_container(OmegaConf.merge(method.get("losses", {}), added.get("losses", {}), plain["losses"]))


def _added(name: str) -> dict[str, Any]:
    """Return conf/when/method/NAME.yaml with the files that its defaults list names, {} where there is no such file."""
    own = _of_group("when/method", name)
    parts = [_added(entry) for entry in own.pop("defaults", [])]
    return OmegaConf.to_container(OmegaConf.merge(*parts, own)) if own or parts else {}


def _of_group(group: str, name: str) -> dict[str, Any]:
    path = config_dir() / group / f"{name}.yaml"
    return read(path) if path.is_file() else {}
