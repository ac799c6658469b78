"""Rules: values for combinations of choices, as data."""

import pytest
from hydra.errors import MissingConfigException

from tokenprune.errors import InvalidConfig
from tokenprune.registry import names
from tokenprune.runs.config import compose
from tokenprune.runs.nodes import nodes
from tokenprune.runs.rule_lists import Held, choices_in, held, merged, rule_lists
from tokenprune.runs.rules import OTHERS, names_of, rule_groups, rules_of
from tokenprune.runs.sources import read_data
from tokenprune.utils.paths import config_dir


def test_a_rule_holds_for_every_combination_of_its_names(tmp_path):
    (tmp_path / "mine.yaml").write_text("by: [task, scale]\nrules:\n  - {task: [a, b], scale: [x, y], set: {n: 1}}\n")
    assert rules_of(tmp_path / "mine.yaml") == [(name, {"n": 1}) for name in ("a_x", "a_y", "b_x", "b_y")]


def test_rules_of_one_combination_are_merged_and_the_later_one_wins(tmp_path):
    (tmp_path / "rules").mkdir()
    rules = "  - {task: [a, b], set: {n: 1, m: {p: 1}}}\n  - {task: b, set: {n: 2, m: {q: 3}}}\n"
    (tmp_path / "rules" / "mine.yaml").write_text(f"by: [task]\nrules:\n{rules}")
    groups = rule_groups(tmp_path)
    assert list(groups) == ["rules/mine"]
    assert groups["rules/mine"]() == {"a": {"n": 1, "m": {"p": 1}}, "b": {"n": 2, "m": {"p": 1, "q": 3}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a file of rules; allowed: `by:"),
        ("by: task\nrules: []\n", "is not a file of rules"),
        ("by: [task]\nrules:\n  - {task: a}\n", "rule 1 has task; allowed: one of each of task, and `set`"),
        ("by: [task]\nrules:\n  - {task: a, set: {}}\n  - {tsak: a, set: {}}\n", "rule 2 has tsak, set; allowed"),
        ("by: [task]\nrules:\n  - {task: a, set: 3}\n", "rule 1 has task, set; allowed"),
        ("by: [task]\nrules:\n  - a\n", "rule 1 has 'a'; allowed"),
        ("by: [task\n", "cannot be read as YAML"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InvalidConfig, match=message):
        rules_of(tmp_path / "mine.yaml")


def test_every_file_of_rules_is_referred_to_and_names_groups_that_exist():
    """A rule that nothing asks for, or whose names no group has, would be silently without effect."""
    asked = {line.name for lines in rule_lists(config_dir()).values() for line in lines}
    for path in (config_dir() / "rules").glob("*.yaml"):
        assert path.stem in asked, path.stem
        content = read_data(path)
        for rule in content["rules"]:
            for group in set(content["by"]) - {"stage"}:
                named = rule[group][OTHERS] if isinstance(rule[group], dict) else rule[group]
                for name in named if isinstance(named, list) else [named]:
                    assert (config_dir() / group / f"{name}.yaml").is_file(), (path.stem, group, name)


def test_the_configuration_asks_for_every_list_with_all_choices_that_it_needs():
    defaults = read_data(config_dir() / "config.yaml")["defaults"]
    asked = {key: value for entry in defaults if isinstance(entry, dict) for key, value in entry.items() if key.startswith("rules/")}
    lists = rule_lists(config_dir())
    assert list(asked) == [f"rules/{name}@_global_" for name in lists]
    for name, lines in lists.items():
        given = choices_in(asked[f"rules/{name}@_global_"])
        assert given == {group: f"${{{group}}}" for group in given}
        assert {word for line in lines for word in given if f"${{{word}}}" in line.combination} == set(given)
        assert not any("${treatment}" in line.combination for line in lines), "tokenprune.runs.composer relies on it"


def test_rules_of_a_list_are_merged_in_its_order_at_their_places(tmp_path):
    rules = [Held(tmp_path, "a", "_global_", "x", {"task": {"n": 1, "m": 1}}), Held(tmp_path, "b", "task", "x", {"n": 2, "parts": [1]})]
    assert merged(rules) == {"task": {"n": 2, "m": 1, "parts": [1]}} and rules[0].values == {"task": {"n": 1, "m": 1}}
    assert merged(rules[::-1])["task"] == {"n": 1, "m": 1, "parts": [1]}


def test_a_mapping_after_no_mapping_is_refused(tmp_path):
    """Merged one after the other it would replace a mapping that is there before; merged at once it would not."""
    rules = [Held(tmp_path, "a", "task", "x", {"mix": None}), Held(tmp_path, "b", "_global_", "y", {"task": {"mix": {"p": 1}}})]
    with pytest.raises(InvalidConfig, match=r"rule b/y sets task\.mix to a mapping, and a rule before it .* sets it to None"):
        merged(rules)


def test_no_two_rules_of_a_list_meet_so():
    """Over all combinations of one another, whatever is chosen."""
    for name, lines in rule_lists(config_dir()).items():
        kinds: dict[str, dict[bool, set[str]]] = {}
        for line in lines:
            for values in nodes(str(config_dir())).get(f"rules/{line.name}", {}).values():
                for path, is_mapping in _paths(merged([Held(config_dir(), line.name, line.place, "", values)])):
                    kinds.setdefault(path, {}).setdefault(is_mapping, set()).add(line.name)
        assert not {path: found for path, found in kinds.items() if len(found) == 2}, name


def _paths(values, start=""):
    for key, value in values.items():
        yield f"{start}{key}", isinstance(value, dict)
        yield from _paths(value, f"{start}{key}.") if isinstance(value, dict) else ()


def test_a_list_says_what_it_lacks():
    with pytest.raises(InvalidConfig, match=r"rules.yaml asks for \$\{data\}"):
        list(held("before_method", {"task": "detection", "scale": "demo", "schedule": "none"}))
    choices = dict.fromkeys(("task", "data", "backbone", "method", "schedule"), "x")
    with pytest.raises(MissingConfigException) as refused:
        list(held("after_scale", {**choices, "scale": "mine"}))
    assert refused.value.missing_cfg_file == "rules/throughput/mine" and refused.value.options == ["demo", "paper", "smoke"]


def test_other_than_stands_for_every_other_option():
    """Files of conf/data and registered data sets alike."""
    everything = {path.stem for path in (config_dir() / "data").glob("*.yaml")} | set(names("data"))
    assert names_of("data", {"other_than": ["shapes", "coco"]}) == sorted(everything - {"shapes", "coco"})
    assert names_of("data", {"other_than": "shapes"}) == sorted(everything - {"shapes"})
    with pytest.raises(InvalidConfig, match=r"a rule names data: .*; allowed: a name, a list of names, or {other_than: \[NAME, ...\]}"):
        names_of("data", {"not": "shapes"})


def test_every_rule_says_why():
    for path in (config_dir() / "rules").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert all(before.startswith("  # ") for before, line in zip(lines, lines[1:], strict=False) if line.startswith("  - ")), path


def test_rules_reach_the_configuration_and_the_command_line_wins():
    config = compose(["task=classification", "method=evit", "scale=paper"])
    assert (config.training.lr, config.training.drop_path) == (4.0e-5, False)
    assert compose(["task=classification", "method=evit", "scale=paper", "training.lr=1"]).training.lr == 1
