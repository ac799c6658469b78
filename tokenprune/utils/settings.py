"""Fills dataclasses of settings from configuration mappings, and reports every error at once."""

import difflib
import inspect
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tokenprune.errors import InvalidConfig

T = TypeVar("T")
_LISTS = (list, tuple, Sequence)
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null", None: "null"}


def read_settings(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """Build the dataclass `cls` from `values`; lists become tuples, mappings the dataclasses of fields.

    Args:
        cls: The dataclass.
        values: A mapping or an OmegaConf node; None for no values.
        where: The config path named in errors, for example "training" or "task.heads".

    Raises:
        InvalidConfig: Fields are unknown or missing, or values have a wrong type. The message names all of them, and the nearest allowed
            name of an unknown field.
    """
    given = plain(values) or {}
    hints = get_type_hints(cls)
    allowed = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    problems = [_unknown(where, key, allowed) for key in given if key not in allowed]
    problems += [
        f"{where}.{f.name} is missing: set it to a {_spell(hints[f.name])}"
        for f in fields(cls)  # type: ignore[arg-type]
        if f.name not in given and f.default is MISSING and f.default_factory is MISSING
    ]
    ready = {}
    for key in set(given) & set(allowed):
        part = _part(hints[key])
        if part is not None and isinstance(given[key], Mapping):
            try:
                ready[key] = read_settings(part, given[key], f"{where}.{key}")
            except InvalidConfig as error:
                problems += error.problems
            continue
        ready[key], fits = _fit(given[key], hints[key])
        if not fits:
            problems.append(f"{where}.{key} is {given[key]!r}, allowed is a {_spell(hints[key])}")
    if problems:
        raise InvalidConfig(sorted(problems))
    return cls(**ready)


def one_of(name: str, option: str, value: str, allowed: Collection[str]) -> str:
    """Return the value of a selector's option if it is one of `allowed`.

    Raises:
        InvalidConfig: It is not.
    """
    if value not in allowed:
        raise InvalidConfig(f"{name}: {option} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def check_types(settings: Any, where: str) -> None:
    """Check the values of a dataclass against its annotations, from its `__post_init__`; lists become tuples.

    Raises:
        InvalidConfig: Values have a wrong type; the message names each.
    """
    hints, problems = get_type_hints(type(settings)), []
    for name in (f.name for f in fields(settings)):
        value, fits = _fit(getattr(settings, name), hints[name])
        object.__setattr__(settings, name, value)  # works on a frozen dataclass, too, while it is being made
        if not fits:
            problems.append(f"{where}.{name} is {value!r}, allowed is a {_spell(hints[name])}")
    if problems:
        raise InvalidConfig(problems)


def misfits(make: Callable[..., Any], options: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Return (name, value, allowed types) of each option that does not fit the annotation of a constructor.

    Only plain annotations are checked: int, float, bool, str, None, choices of them, and lists and tuples of them. A value that equals
    the default fits.

    Args:
        make: A class or function.
        options: {name of a parameter: value}.
    """
    found = []
    for name, parameter in inspect.signature(make).parameters.items():
        if name not in options or options[name] is parameter.default:
            continue
        value = plain(options[name])
        hint = _annotation(make, name, parameter.annotation)
        if not _plainly_fits(value, hint):
            found.append((name, value, _in_words(hint)))
    return found


def _annotation(make: Callable[..., Any], name: str, annotation: Any) -> Any:
    """Return an annotation as a type; Any if it is a text that cannot be read."""
    if not isinstance(annotation, str):
        return annotation
    for owner in getattr(make, "__mro__", (make,)):
        try:
            return get_type_hints(types.SimpleNamespace(__annotations__={name: annotation}), vars(sys.modules[owner.__module__]))[name]
        except (NameError, AttributeError, SyntaxError, TypeError, KeyError):  # of another module, or a name for type checkers alone
            continue
    return Any


def _plainly_fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_plainly_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if hint in _LISTS or origin in _LISTS:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if origin is tuple and Ellipsis not in inner:
            return len(value) == len(inner) and all(map(_plainly_fits, value, inner))
        return all(_plainly_fits(item, inner[0]) for item in value) if inner else True
    if hint in (int, float):
        return isinstance(value, {int: Integral, float: Real}[hint]) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, bool if hint is bool else (str, PathLike))
    return value is None if hint in (None, types.NoneType) else True


def _in_words(hint: Any) -> str:
    """Return an annotation in words: "a number", "an integer or null", "a list of integers"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is Literal:
        return ", ".join(map(repr, inner))
    if hint in _LISTS or origin in _LISTS:
        items = [_in_words(item).split(" ", 1)[-1] + "s" if item in _WORDS else _in_words(item) for item in inner if item is not Ellipsis]
        many = f"{len(items)} " if origin is tuple and Ellipsis not in inner else ""
        return "a list" + (f" of {many}{' and '.join(dict.fromkeys(items))}" if items else "")
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))


def leaves(values: Any, start: str = "") -> list[str]:
    """Return the dotted path of every value in nested mappings, and of the mappings themselves."""
    found = []
    for key, value in values.items() if isinstance(values, Mapping) else ():
        found += [f"{start}{key}", *leaves(value, f"{start}{key}.")]
    return found


def nearest_setting(path: str, known: Sequence[str]) -> str:
    """Return " Did you mean schedule.keep_rate?" for the known path that is nearest to one that does not exist, "" where none is near.

    A path that ends as the given one comes first, the shortest of several, then one that is spelt nearly alike.
    """
    leaf = path.rpartition(".")[2]
    same = sorted((other for other in known if other.rpartition(".")[2] == leaf and other != path), key=lambda other: other.count("."))
    alike = difflib.get_close_matches(path, known, 1, 0.75)
    ends = {other.rpartition(".")[2]: other for other in sorted(known, key=lambda other: -other.count("."))}
    ending = [ends[name] for name in difflib.get_close_matches(leaf, list(ends), 1, 0.75)]
    near = [*alike, *same, *ending] if "." in path else [*same, *alike, *ending]
    return f" Did you mean {near[0]}?" if near else ""


def plain(node: Any) -> Any:
    """Return an OmegaConf node as plain dicts and lists with its interpolations resolved, and anything else unchanged."""
    if type(node).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(node, resolve=True)
    return node


def _part(hint: Any) -> Any:
    """Return the dataclass that a field holds, `Part` or `Part | None`; None if it holds none."""
    return next((option for option in (hint, *get_args(hint)) if is_dataclass(option)), None)


def _unknown(where: str, key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(str(key), allowed, 1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{where}.{key} is not a setting{hint} (allowed: {', '.join(allowed)})"


def _fit(value: Any, hint: Any) -> tuple[Any, bool]:
    """Return the value in the type of `hint`, and if it fits. ints widen to float and lists become tuples, recursively."""
    if hint is Any:
        return value, True
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        tries = [_fit(value, option) for option in get_args(hint)]
        return next((t for t in tries if t[1]), (value, False))
    if origin is tuple:
        return _fit_tuple(value, get_args(hint))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value), True
    if hint is int and isinstance(value, bool):
        return value, False
    return value, isinstance(value, origin or hint)


def _fit_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, bool]:
    if not isinstance(value, (list, tuple)):
        return value, False
    types_ = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
    if len(types_) != len(value):
        return value, False
    pairs = [_fit(v, t) for v, t in zip(value, types_, strict=True)]
    return tuple(v for v, _ in pairs), all(ok for _, ok in pairs)


def _spell(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
