"""Reads a plugin's docstring and signature: its text, its options with defaults and meanings, and if it states an equation."""

import dataclasses
import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_SECTION = re.compile(r"^(Args|Raises|Returns|Example):\s*$", re.M)
_SEE = re.compile(r"see `(\w+)`\.?")
_EQUATION = re.compile(r"(?<![=<>!])=(?!=)|<-|\+=|softmax|sigmoid|argmax|Eq\. ?\d")
GIVEN = ("context",)  # arguments that every plugin of a kind gets and no user sets


@dataclass(frozen=True)
class Option:
    """Holds one option: name, type and default as they would be written, and its meaning by the docstring ("" for none)."""

    name: str
    type: str
    default: str
    meaning: str


def text_of(plugin: Any) -> tuple[str, str]:
    """Return the docstring of a plugin in two parts: its first line, and the rest up to the sections (Args, Raises)."""
    doc = inspect.getdoc(plugin) or ""
    first, _, rest = _SECTION.split(doc, maxsplit=1)[0].partition("\n")
    return first.strip(), rest.strip()


def options_of(plugin: Any) -> list[Option]:
    """Return the options of a plugin, in the order of its signature."""
    parameters = [p for p in inspect.signature(plugin).parameters.values() if p.name not in GIVEN]
    meanings = _meanings(plugin, {p.name for p in parameters})
    return [Option(p.name, _type(p.annotation), _default(plugin, p), meanings.get(p.name, "")) for p in parameters]


def states_equation(text: str) -> bool:
    """Tell if a text holds an equation or the number of one. This is a rule of thumb, which a sentence of words alone does not meet."""
    return bool(_EQUATION.search(text))


def _meanings(plugin: Any, names: Collection[str]) -> dict[str, str]:
    """Return the meaning of each name by the section Args; `see X` is followed to the class X that the plugin inherits from."""
    found = _arguments(inspect.getdoc(plugin) or "", names)
    for base in inspect.getmro(plugin)[1:]:
        said = _arguments(inspect.getdoc(base) or "", names)
        for name in names:
            see = _SEE.fullmatch(found.get(name, ""))
            if name not in found or (see and see.group(1) == base.__name__):
                found |= {name: said[name]} if name in said else {}
    return found


def _arguments(doc: str, names: Collection[str]) -> dict[str, str]:
    """Return the entries of the section Args: `a: text`, `a, b: text`, also if the next entry follows on the same line."""
    parts = _SECTION.split(doc)
    if "Args" not in parts:
        return {}
    text = " ".join(parts[parts.index("Args") + 1].split())
    heads = [m for m in re.finditer(r"(?:^|(?<=[.)] )|(?<= ))(\w+(?:, \w+)*): ", text) if set(m.group(1).split(", ")) <= {*names, *GIVEN}]
    ends = [*(m.start() for m in heads[1:]), len(text)]
    return {name: text[m.end() : end].strip() for m, end in zip(heads, ends, strict=True) for name in m.group(1).split(", ")}


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _default(plugin: Any, parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    factories = {f.name: f.default_factory for f in dataclasses.fields(plugin)} if dataclasses.is_dataclass(plugin) else {}
    factory = factories.get(parameter.name, dataclasses.MISSING)
    value = parameter.default if factory is dataclasses.MISSING else factory()
    return "null" if value is None else {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
