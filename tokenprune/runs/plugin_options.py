"""Registered selectors, treatments and schedules as choices of the command line, from their classes.

`selector=NAME` (and treatment, schedule) takes the options of the constructor at their defaults; `method=NAME` takes what the selector's
class calls `published`. A file conf/selector/NAME.yaml or conf/method/NAME.yaml goes before the class, so that presets can differ from it.
"""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from functools import cache
from typing import Any

from omegaconf import MISSING

from tokenprune.registry import get, names
from tokenprune.runs.presets import choices, files, read

KINDS = ("selector", "treatment", "schedule")  # the axes of a method
_ENGINE = {"context"}  # arguments that the engine gives


def plugin_nodes() -> dict[str, dict[str, dict[str, Any]]]:
    """Return {group: {name: configuration}} of all registered selectors, treatments and schedules, and a method for each selector."""
    found: dict[str, dict[str, dict[str, Any]]] = {
        kind: {name: {"name": name, **shown_options(kind, name)} for name in names(kind) if name != "none"} for kind in KINDS
    }
    for kind in KINDS:
        found[kind].setdefault("none", {"name": "none"})
    found["data"] = {name: {"name": name, **shown_options("data", name)} for name in names("data")}
    return {**found, "method": {name: published_method(name) for name in names("selector")}}


@cache
def defaults(kind: str, name: str) -> Mapping[str, Any]:
    """Return {option: default} of a plugin's constructor, `MISSING` where it has none; lists for tuples, as configurations have them."""
    found = {}
    for option, parameter in inspect.signature(get(kind, name)).parameters.items():
        if option in _ENGINE:
            continue
        default = parameter.default
        if type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":  # of a dataclass's field
            default = get(kind, name).__dataclass_fields__[option].default_factory()
        found[option] = MISSING if default in (inspect.Parameter.empty, NO_DEFAULT) else _listed(default)
    return found


def shown_options(kind: str, name: str) -> dict[str, Any]:
    """Return the options that a configuration shows: all of a plugin's, but not the axes that every treatment has and its name fixes."""
    from tokenprune.engine.treatment import Treatment

    fixed = set(inspect.signature(Treatment).parameters) if kind == "treatment" else set()
    return {option: value for option, value in defaults(kind, name).items() if option not in fixed}


def published_method(selector: str) -> dict[str, Any]:
    """Return the preset that a selector's class stands for, as a file of conf/method would say it.

    It names the schedule and not its options, so that another schedule can be chosen: rules set them (`tokenprune.runs.published`).
    """
    axes = {axis: {"name": spec} if isinstance(spec, str) else dict(spec) for axis, spec in get("selector", selector).published.items()}
    chosen = [{"override /selector": selector}, *({f"override /{axis}": spec.pop("name")} for axis, spec in axes.items())]
    values = {axis: spec for axis, spec in axes.items() if spec and axis != "schedule"}
    return {"defaults": [*chosen, "_self_"], "method": selector, "label": get("selector", selector).shown_label(), **values}


def presets() -> dict[str, dict[str, Any]]:
    """Return {name: preset} of all methods: the files of conf/method, then what the classes of the other selectors publish."""
    own = {path.stem: read(path) for path in files("method")}
    filed = {choices(preset).get("selector") for preset in own.values()}
    return {**own, **{name: published_method(name) for name in names("selector") if name not in filed}}


def without_defaults(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plugin's options without those that equal its defaults, for the run key: an option added later changes no key."""
    name = options.get("name")
    if name not in names(kind):
        return dict(options)
    usual = defaults(kind, name)
    return {k: v for k, v in options.items() if k == "name" or k not in usual or _listed(v) != usual[k]}


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value
