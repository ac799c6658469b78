"""Reads the names of classes from a configuration or from a JSON file beside the images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import DatasetError

_ALLOWED = 'a list of names, of {"name": ...}, or either of them under "classes" or "names"'


def read_names(given: Any, root: Path) -> tuple[str, ...]:
    """Return names in the order of their numbers.

    Args:
        given: The names, or the path of a JSON file in `root`. The file holds a list of names, a list of records with a `name`, or a
            mapping with one of these under `classes` or `names`. Records with an `index` are brought into its order.
        root: Root folder of the data set.

    Raises:
        DatasetError: There are no names, the file is missing or has another form, or a name occurs twice. The message names the file.
    """
    if given is None or given == "":
        raise DatasetError("data set 'semantic': classes is not given: set data.classes to a list of names, or to a JSON file in data.root")
    where = str(Path(root) / given) if isinstance(given, str) else "data.classes"
    names = _listed(_read(Path(root) / given) if isinstance(given, str) else given, where)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        wrong = f"holds {', '.join(map(repr, twice[:5]))} more than once" if twice else "holds no names"
        raise DatasetError(f"{where}: the list of classes {wrong}; allowed: {_ALLOWED}, each name once")
    return tuple(names)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file: set data.classes to a JSON file in data.root, or to a list of names")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no valid JSON ({error}); allowed: {_ALLOWED}") from error


def _listed(content: Any, where: str) -> list[str]:
    if isinstance(content, Mapping):
        content = content.get("classes", content.get("names"))
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise DatasetError(f"{where}: the classes are a {type(content).__name__}; allowed: {_ALLOWED}")
    records = list(content)
    if all(isinstance(r, Mapping) and isinstance(r.get("index"), int) for r in records):
        records = sorted(records, key=lambda r: r["index"])
        if [r["index"] for r in records] != list(range(len(records))):
            raise DatasetError(f"{where}: the numbers `index` of the classes are not 0 to {len(records) - 1}, each once")
    names = [r.get("name") if isinstance(r, Mapping) else r for r in records]
    bad = [name for name in names if not isinstance(name, str) or not name]
    if bad:
        raise DatasetError(f"{where}: {bad[0]!r} is no name of a class; allowed: {_ALLOWED}")
    return names
