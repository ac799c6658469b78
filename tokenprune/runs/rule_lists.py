"""The lists of rules that a run is composed from: conf/rules.yaml says which files of rules count, in which order and at which place.

Hydra takes a list as one configuration, `rules/LIST/task=detection,scale=demo`, whose name says what was chosen. One configuration for each
file and combination says the same and takes twice as long: Hydra looks every choice up in every source and copies all choices each time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import MissingConfigException

from tokenprune.errors import InvalidConfig
from tokenprune.runs.nodes import nodes
from tokenprune.runs.rules import GROUP
from tokenprune.runs.sources import folders, read_data, shown
from tokenprune.utils.paths import config_dir

_FILE = "rules.yaml"
_LINE = re.compile(r"(optional )?(\w+)@([\w.]+)")
_CHOICE = re.compile(r"\$\{(\w+)\}")
_EVERYWHERE = "_global_"


class Asked(NamedTuple):
    """Describes a line of a list.

    Attributes:
        name: Name of the file of rules.
        place: Path that its values are put at, `_global_` for the top.
        combination: Combination that is looked up, with `${GROUP}` for a choice.
        optional: Whether there may be no rule for it.
    """

    name: str
    place: str
    combination: str
    optional: bool


class Held(NamedTuple):
    """Describes a rule that holds for a run.

    Attributes:
        folder: Folder of configurations that it comes from.
        name: Name of the file of rules.
        place: Path that its values are put at.
        combination: Combination that was found.
        values: Values that it sets there.
    """

    folder: Path
    name: str
    place: str
    combination: str
    values: Mapping[str, Any]


@cache
def rule_lists(folder: Path) -> dict[str, list[Asked]]:
    """Return {list: its lines} of FOLDER/rules.yaml.

    Raises:
        InvalidConfig: A line of another form.
    """
    content = read_data(folder / _FILE)
    return {name: [_asked(folder / _FILE, *line) for entry in lines for line in entry.items()] for name, lines in content.items()}


def held(name: str, choices: Mapping[str, str]) -> Iterator[Held]:
    """Yield the rules of a list that hold for some choices, in the order of the list.

    Args:
        name: Name of the list.
        choices: {group: option}.

    Raises:
        InvalidConfig: The list asks for a group that is not among the choices.
        MissingConfigException: There is no rule where there has to be one.
    """
    for asked in rule_lists(config_dir())[name]:
        combination = _CHOICE.sub(lambda found, asked=asked: _chosen(choices, found.group(1), asked), asked.combination)
        group = f"{GROUP}/{asked.name}"
        owner = next((folder for folder in folders() if combination in nodes(str(folder)).get(group, ())), None)
        if owner is not None:
            yield Held(owner, asked.name, asked.place, combination, nodes(str(owner))[group][combination])
        elif not asked.optional:
            options = sorted(option for folder in folders() for option in nodes(str(folder)).get(group, ()))
            raise MissingConfigException(f"there is no rule {group}/{combination}", f"{group}/{combination}", options)


def merged(rules: Sequence[Held]) -> dict[str, Any]:
    """Return the values of rules at their places as one configuration.

    Raises:
        InvalidConfig: A rule gives a mapping where another of the list gives none. Merged one after the other into a configuration it would
            replace what is there, and merged at once it would not.
    """
    found: dict[str, Any] = {}
    for rule in rules:
        values: Mapping[str, Any] = rule.values
        for part in reversed(rule.place.split(".") if rule.place != _EVERYWHERE else []):
            values = {part: values}
        _merge(found, values, rule)
    return found


def choices_in(option: str) -> dict[str, str]:
    """Return {group: option} of the name of a list's configuration, `task=detection,scale=demo`."""
    return dict(word.split("=", 1) for word in option.split(",") if "=" in word)


def _asked(path: Path, key: str, combination: Any) -> Asked:
    found = _LINE.fullmatch(str(key))
    if found is None or not isinstance(combination, str):
        raise InvalidConfig(f"{shown(path)}: got {key}: {combination!r}; allowed: [optional ]NAME@PLACE: COMBINATION")
    return Asked(found.group(2), found.group(3), combination, found.group(1) is not None)


def _chosen(choices: Mapping[str, str], group: str, asked: Asked) -> str:
    if group not in choices:
        raise InvalidConfig(f"{_FILE} asks for ${{{group}}} in {asked.name}; conf/config.yaml gives {', '.join(choices)} there: add it")
    return choices[group]


def _merge(into: dict[str, Any], values: Mapping[str, Any], rule: Held, path: str = "") -> None:
    for key, value in values.items():
        if not isinstance(value, Mapping):
            into[key] = value
            continue
        if not isinstance(into.setdefault(key, {}), dict):
            raise InvalidConfig(
                f"rule {rule.name}/{rule.combination} sets {path}{key} to a mapping, and a rule before it in the same list of {_FILE} sets"
                f" it to {into[key]!r}: put the two into different lists, or leave it out of one of them"
            )
        _merge(into[key], value, rule, f"{path}{key}.")
