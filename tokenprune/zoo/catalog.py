"""Published files as data: tokenprune/zoo/FAMILY.yaml lists the files of one publication, each an entry.

Values of a file outside of `entries` hold for each of its entries. `${size}` in the name or a value of an entry with
`each: {size: [tiny, small]}` stands for one value after the other, so one text describes a grid of files. Several lists make a product.
A mapping in such a list gives several words at once: `each: {file: [{rate: 0.9, top1: 79.8}, {rate: 0.7, top1: 79.5}]}`. Nothing is ever
downloaded: `link` is for people.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tokenprune.errors import InvalidConfig, hint

TASKS = ("classification", "detection", "segmentation")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINK = re.compile(r"https?://[^\s]+")
_WORD = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True)
class Entry:
    """Describes a published file.

    Args:
        name: Name for `tokenprune zoo`: small letters, digits, dots and hyphens.
        method: Method as the registry calls it; `dense` for a model without one.
        paper: Title and year.
        code: Address of the authors' code.
        model: Model, size and setting, for people.
        task: classification, detection or segmentation.
        layout: Importer of the file, see `tokenprune list layouts`.
        file: Name under which `zoo.folder` is searched for it. Where the authors' name is not known, it is one of this project's, as
            `note` says.
        link: Address that the authors give, of the file or of the page that has it; None if it is not known.
        licence: Licence of the file as far as it is known.
        needs: Data that the printed numbers are of.
        size: MiB, as the publisher's page has it or somebody has seen it; None if neither is known.
        sha256: Digest of the file, as the publisher's page has it or somebody has found it; None if neither is known.
        given: Settings that the file does not say, see `Layout.asks`.
        run: Choices and values of the run that judges it, as in a row of a table (conf/rows).
        printed: {metric: number} as the authors print them, with the metrics of result rows.
        printed_in: Place where they are printed; needed beside `printed`.
        measured: {metric: number} by this project, with `device` and `commit`; None until somebody has measured it.
        refused: Reason why it cannot be loaded; "" if it can.
        note: Remark for people.
        family: Name of the YAML file.
    """

    name: str
    method: str
    paper: str
    code: str
    model: str
    task: str
    layout: str
    file: str
    family: str
    link: str | None = None
    licence: str = ""
    needs: str = ""
    size: float | None = None
    sha256: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    printed: Mapping[str, float] = field(default_factory=dict)
    printed_in: str = ""
    measured: Mapping[str, Any] | None = None
    refused: str = ""
    note: str = ""

    @property
    def command(self) -> str:
        """Return the command that judges the file."""
        return f"tokenprune zoo verify {self.name} --weights FILE --data ROOT"


def entry(name: str) -> Entry:
    """Return an entry by its name.

    Raises:
        InvalidConfig: There is none of that name.
    """
    known = {found.name: found for found in entries()}
    if name not in known:
        raise InvalidConfig(
            f"there is no entry {name!r} in the zoo.{hint(name, list(known))} `tokenprune zoo list` prints all {len(known)}"
        )
    return known[name]


@cache
def entries() -> tuple[Entry, ...]:
    """Return every entry, by family and in the order of its file.

    Raises:
        InvalidConfig: A file of entries is wrong; the message names each fault.
    """
    found = [e for path in sorted(Path(__file__).parent.glob("*.yaml")) for e in entries_of(path)]
    twice = sorted(name for name, count in Counter(e.name for e in found).items() if count > 1)
    if twice:
        raise InvalidConfig(f"the zoo has several entries of the name {', '.join(twice)}; allowed: one")
    return tuple(found)


def entries_of(path: Path) -> list[Entry]:
    """Return the entries of one file.

    Raises:
        InvalidConfig: The file is wrong; the message names each fault.
    """
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get("entries"), dict):
        raise InvalidConfig(f"zoo/{path.name} is no file of entries; allowed: `entries:`, a mapping from names to values")
    shared = {key: value for key, value in content.items() if key != "entries"}
    found, problems = [], []
    for name, own in content["entries"].items():
        values = {**shared, **(own or {})}
        if unfit := _unfit_grid(values.get("each")):
            problems.append(f"zoo/{path.name}, {name}: {unfit}")
            continue
        for full_name, filled in _expanded(str(name), values):
            wrong = _faults(full_name, filled)
            problems += [f"zoo/{path.name}, {full_name}: {text}" for text in wrong]
            found += [] if wrong else [Entry(name=full_name, family=path.stem, **filled)]
    if problems:
        raise InvalidConfig(problems)
    return found


if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where it was built, is ten times as fast


class _Strict(_Loader):
    """Reads YAML; two equal keys in one mapping are an error, where plain YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises:
            yaml.constructor.ConstructorError: A key occurs twice.
        """
        keys = [key.value for key, _ in node.value]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(map(str, twice))} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"zoo/{path.name} is no YAML: {error}") from error


def _unfit_grid(each: Any) -> str:
    """Return what is wrong with the words of a grid; "" if nothing is."""
    if each is None or (isinstance(each, dict) and each and all(isinstance(choices, list) and choices for choices in each.values())):
        return ""
    return f"each is {each!r}; allowed: a mapping from names to lists, such as each: {{size: [tiny, small]}}"


def _expanded(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, values) of an entry for each combination of its `each`."""
    each = values.get("each") or {}
    rest = {key: value for key, value in values.items() if key != "each"}
    for chosen in itertools.product(*each.values()):
        words: dict[str, Any] = {}
        for key, word in zip(each, chosen, strict=True):
            words |= word if isinstance(word, dict) else {key: word}
        yield _filled(name, words), _filled(rest, words)


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    """Return a value with `${NAME}` replaced; a text that is nothing but `${NAME}` becomes the value itself, a number for example."""
    if isinstance(value, dict):
        return {_filled(key, words): _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    for name, word in words.items() if isinstance(value, str) else ():
        if value == f"${{{name}}}":
            return word
        value = value.replace(f"${{{name}}}", str(word))
    return value


def _faults(name: str, values: Mapping[str, Any]) -> list[str]:
    allowed = [f.name for f in fields(Entry) if f.name not in ("name", "family")]
    needed = ("method", "paper", "code", "model", "task", "layout", "file")
    faults = [f"unknown {key!r}; allowed: {', '.join(allowed)}" for key in values if key not in allowed]
    faults += [f"no {key!r}" for key in needed if not values.get(key)]
    faults += [] if _NAME.fullmatch(name) else ["the name has other letters than a-z, 0-9, dots and hyphens"]
    faults += [] if values.get("task") in TASKS else [f"task is {values.get('task')!r}; allowed: {', '.join(TASKS)}"]
    faults += [] if values.get("run") or values.get("refused") else ["neither `run` nor `refused`"]
    return faults + _value_faults(values) + [f"{word} stands for nothing in `each`" for word in _WORD.findall(f"{name} {values}")]


def _value_faults(values: Mapping[str, Any]) -> list[str]:
    printed = values.get("printed") or {}
    mappings = [key for key in ("given", "run", "printed") if not isinstance(values.get(key) or {}, dict)]
    faults = [f"{key} is {values[key]!r}; allowed: a mapping" for key in mappings]
    if "printed" not in mappings:
        words = {key: value for key, value in printed.items() if isinstance(value, bool) or not isinstance(value, (int, float))}
        faults += [f"printed.{key} is {value!r}; allowed: a number" for key, value in words.items()]
        faults += ["`printed` without `printed_in`"] if printed and not values.get("printed_in") else []
    for key in ("code", "link"):
        value = values.get(key)
        faults += [f"{key} is {value!r}; allowed: an address, http(s)://..."] if value and not _LINK.fullmatch(str(value)) else []
    size, digest = values.get("size"), values.get("sha256")
    faults += [] if size is None or (isinstance(size, (int, float)) and size > 0) else [f"size is {size!r}; allowed: MiB, above 0"]
    return faults + ([] if digest is None or _SHA256.fullmatch(str(digest)) else [f"sha256 is {digest!r}; allowed: 64 hexadecimal digits"])
