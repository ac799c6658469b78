"""Plugins by name: one decorator, one look-up, one list. The registry is also the test matrix and the source of the docs."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from tokenprune.errors import InvalidConfig, TokenPruneError, UnknownPlugin, hint, is_out_of_memory, reason_of
from tokenprune.utils import console
from tokenprune.utils.environment import installed
from tokenprune.utils.settings import misfits

ENTRY_POINT_GROUP = "tokenprune.plugins"
BUILTIN: dict[str, tuple[str, ...]] = {
    "selector": ("tokenprune.methods.selectors",),
    "treatment": ("tokenprune.methods.treatments",),
    "schedule": ("tokenprune.methods.schedules",),
    "data": ("tokenprune.data.sources",),
    "fusion": ("tokenprune.methods.fusions",),
    "loss": ("tokenprune.methods.losses",),
    "task": tuple(
        f"tokenprune.tasks.{name}" for name in ("classification.task", "detection.task", "timm_models", "segmentation.task", "zero_shot")
    ),
    "layout": ("tokenprune.zoo.layouts",),
    "report": (
        *(f"tokenprune.report.tables.{name}" for name in ("standard", "taxonomy", "paired", "aims")),
        "tokenprune.report.insights.report",
        "tokenprune.report.figures",
    ),
}
_FOREIGN = (TypeError, ValueError, AttributeError, KeyError, IndexError)  # of a constructor that got options of another form
_plugins: dict[str, dict[str, Any]] = {kind: {} for kind in BUILTIN}
_loaded: set[str] = set()


def register(kind: str, name: str) -> Callable[[Any], Any]:
    """Register a class under `kind` (selector, treatment, schedule, fusion, loss, data, task, layout, report) and `name`.

    Raises:
        InvalidConfig: another class already has the name, or the kind does not exist.
    """
    if kind not in _plugins:
        raise InvalidConfig(f"cannot register {name!r}: no plugin kind {kind!r}; kinds are {', '.join(_plugins)}")

    def add(plugin: Any) -> Any:
        old = _plugins[kind].get(name)
        if old is not None and (old.__module__, old.__qualname__) != (plugin.__module__, plugin.__qualname__):
            raise InvalidConfig(f"{kind} {name!r} is already registered by {old.__module__}; choose another name")
        plugin.name = name
        _plugins[kind][name] = plugin
        return plugin

    return add


def get(kind: str, name: str) -> Any:
    """Return the class registered as `name`.

    Raises:
        UnknownPlugin: with the closest name and all that exist.
    """
    known = names(kind)
    if name not in known:
        raise UnknownPlugin(f"unknown {kind} {name!r}.{hint(name, known)} Available: {', '.join(known)}")
    return _plugins[kind][name]


def names(kind: str) -> list[str]:
    """Return the sorted names registered under `kind`, plugins of other packages included."""
    _load(kind)
    return sorted(_plugins[kind])


def facts(kind: str, name: str) -> dict[str, Any]:
    """Return what a plugin declares about itself: its `facts` mapping and the first line of its docstring."""
    plugin = get(kind, name)
    doc = (inspect.getdoc(plugin) or "").split("\n")[0]
    return {"name": name, "summary": doc, "module": plugin.__module__, **getattr(plugin, "facts", dict)()}


def origin(module: str) -> dict[str, str | None]:
    """Return where the module of a plugin comes from: `module`, and `package` and `version` of what it was installed with.

    Package and version are None if nothing installed names the module as its plugin.
    """
    top = module.partition(".")[0]
    found = [point.dist for point in entry_points(group=ENTRY_POINT_GROUP) if point.value.split(":")[0].split(".")[0] == top]
    if top == "tokenprune":
        return {"module": module, "package": top, "version": installed(top)}
    name = next((dist.name for dist in found if dist is not None), None)
    return {"module": module, "package": name, "version": name and installed(name)}


def build(kind: str, spec: str | Mapping[str, Any], **context: Any) -> Any:
    """Build a plugin from its name or from a mapping with `name` and options.

    Args:
        kind: the plugin kind.
        spec: "evit" or {"name": "evit", "option": value, ...}.
        context: arguments every plugin of the kind gets, which a user does not set.

    Raises:
        UnknownPlugin, InvalidConfig: unknown name, unknown option, missing option, values of another type.
    """
    plugin = get(kind, name_in(kind, spec))
    options = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
    parameters = {name: p for name, p in inspect.signature(plugin).parameters.items() if name not in context}
    allowed = list(parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        nearest = hint(unknown[0], allowed)
        raise InvalidConfig(f"{kind} {plugin.name!r} has no option {', '.join(unknown)}.{nearest} Options: {', '.join(allowed) or 'none'}")
    try:
        built = plugin(**context, **options)
    except TokenPruneError:  # the plugin's own words say more
        raise
    except Exception as error:
        _check_types(kind, plugin, options)
        if is_out_of_memory(error):
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        listed = ", ".join(map(str, parameters.values())) or "none"
        text = f"{kind} {plugin.name!r} cannot be built with {given} (options: {listed}): {reason_of(error)}"
        raise (InvalidConfig if isinstance(error, _FOREIGN) else TokenPruneError)(text) from error
    _check_types(kind, plugin, options)
    return built


def _check_types(kind: str, plugin: Any, options: Mapping[str, Any]) -> None:
    wrong = misfits(plugin, options)
    if wrong:
        raise InvalidConfig([f"{kind}.{option} of {plugin.name!r} is {got!r}; allowed: {kinds}" for option, got, kinds in wrong])


def name_in(kind: str, spec: str | Mapping[str, Any]) -> str:
    """Return the name of a plugin that is given as a name or as a mapping with `name`.

    Raises:
        InvalidConfig: It is something else, or has no name.
    """
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, Mapping):
        raise InvalidConfig(f"{kind} is {spec!r}; allowed: a name, or a mapping with `name` and options")
    if not isinstance(spec.get("name"), str):
        raise InvalidConfig(f"{kind}: no `name` in {dict(spec)}; choose one of {', '.join(names(kind))}")
    return spec["name"]


def options_of(kind: str, name: str) -> list[str]:
    """Return the names of the arguments of a plugin's constructor."""
    return list(inspect.signature(get(kind, name)).parameters)


def _load(kind: str) -> None:
    if kind not in _plugins:
        raise UnknownPlugin(f"no plugin kind {kind!r}; kinds are {', '.join(_plugins)}")
    if kind not in _loaded:
        _loaded.add(kind)
        for module in BUILTIN[kind]:
            importlib.import_module(module)
    if "entry points" not in _loaded:
        _loaded.add("entry points")
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                point.load()
            except Exception as error:  # a broken package of somebody else must not stop this one
                console.warn(f"plugin {point.name!r} ({point.value}) failed to load and is ignored: {type(error).__name__}: {error}")
