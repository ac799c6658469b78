"""Values for combinations of choices as data: conf/rules/NAME.yaml, which conf/rules.yaml refers to (tokenprune.runs.rule_lists).

A file says `by:` which groups it looks at, and lists `rules:`. A rule gives a name, or a list of names, for each of these groups, and under
`set:` the values that hold where they meet:

    by: [task, method]
    rules:
      - task: [classification, detection]
        method: cropr
        set: {losses: {auxiliary: {weight: 1.0}}}

`data: {other_than: [shapes]}` stands for every other option of the group, those of plugins and of --config-dir included.

Each combination has a name (`classification_cropr`). Rules of the same combination are merged, the later one wins.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tokenprune.errors import InvalidConfig
from tokenprune.registry import BUILTIN, names
from tokenprune.runs.sources import folders, read_data, shown

GROUP = "rules"
OTHERS = "other_than"
_FORM = "`by: [GROUP, ...]` and `rules:`, a list of mappings with a name or names for each of these groups and `set:` (a mapping)"


def rule_groups(folder: Path) -> dict[str, Callable[[], dict[str, dict[str, Any]]]]:
    """Return {"rules/NAME": reader of `combinations_of`} of FOLDER/rules/NAME.yaml."""
    return {f"{GROUP}/{path.stem}": partial(combinations_of, path) for path in sorted((folder / GROUP).glob("*.yaml"))}


def combinations_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return {combination, e.g. "detection_cropr": values} of a file.

    Raises:
        InvalidConfig: a file of another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for option, values in rules_of(path):
        found[option] = _merged(found[option], values) if option in found else values
    return found


def _merged(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.merge(first, then))  # type: ignore[return-value]


def rules_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (combination, values) of a file, in its order, one for each combination of the names that a rule gives.

    Raises:
        InvalidConfig: a file of another form.
    """
    content = read_data(path)
    by = content.get("by") if isinstance(content, dict) else None
    rules = content.get("rules") if isinstance(content, dict) else None
    if not isinstance(by, list) or not isinstance(rules, list):
        raise InvalidConfig(f"{shown(path)} is not a file of rules; allowed: {_FORM}")
    found = []
    for number, rule in enumerate(rules, 1):
        if not isinstance(rule, dict) or rule.keys() != {*by, "set"} or not isinstance(rule["set"], dict):
            keys = ", ".join(map(str, rule)) if isinstance(rule, dict) else repr(rule)
            raise InvalidConfig(f"{shown(path)}: rule {number} has {keys}; allowed: one of each of {', '.join(by)}, and `set` (a mapping)")
        options = [names_of(group, rule[group]) for group in by]
        found += [("_".join(map(str, combination)), rule["set"]) for combination in product(*options)]
    return found


def names_of(group: str, given: Any) -> list[Any]:
    """Return the options of a group that a rule names: one, a list, or every option but those under `other_than`.

    Raises:
        InvalidConfig: Another mapping.
    """
    if not isinstance(given, dict):
        return given if isinstance(given, list) else [given]
    if given.keys() != {OTHERS}:
        raise InvalidConfig(f"a rule names {group}: {given}; allowed: a name, a list of names, or {{{OTHERS}: [NAME, ...]}}")
    left_out = names_of(group, given[OTHERS])
    files = {path.stem for folder in folders() for path in (folder / group).glob("*.yaml")}
    registered = set(names(group)) if group in BUILTIN else set()
    return sorted((files | registered) - set(left_out))
