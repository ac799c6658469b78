"""Rules: values for combinations of choices, as data."""

import pytest

from tokenprune.errors import InvalidConfig
from tokenprune.registry import names
from tokenprune.runs.config import compose
from tokenprune.runs.rules import OTHERS, names_of, rule_nodes, rules_of
from tokenprune.runs.sources import read_data
from tokenprune.utils.paths import config_dir


def test_a_rule_holds_for_every_combination_of_its_names(tmp_path):
    (tmp_path / "mine.yaml").write_text("by: [task, scale]\nrules:\n  - {task: [a, b], scale: [x, y], set: {n: 1}}\n")
    assert rules_of(tmp_path / "mine.yaml") == [(name, {"n": 1}) for name in ("a_x", "a_y", "b_x", "b_y")]


def test_rules_of_one_combination_are_merged_and_the_later_one_wins(tmp_path):
    (tmp_path / "rules").mkdir()
    rules = "  - {task: [a, b], set: {n: 1, m: {p: 1}}}\n  - {task: b, set: {n: 2, m: {q: 3}}}\n"
    (tmp_path / "rules" / "mine.yaml").write_text(f"by: [task]\nrules:\n{rules}")
    assert rule_nodes(tmp_path) == {"rules/mine": {"a": {"n": 1, "m": {"p": 1}}, "b": {"n": 2, "m": {"p": 1, "q": 3}}}}


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
    asked = [key for entry in read_data(config_dir() / "config.yaml")["defaults"] if isinstance(entry, dict) for key in entry]
    for path in (config_dir() / "rules").glob("*.yaml"):
        assert any(f"rules/{path.stem}@" in key for key in asked), path.stem
        content = read_data(path)
        for rule in content["rules"]:
            for group in set(content["by"]) - {"stage"}:
                named = rule[group][OTHERS] if isinstance(rule[group], dict) else rule[group]
                for name in named if isinstance(named, list) else [named]:
                    assert (config_dir() / group / f"{name}.yaml").is_file(), (path.stem, group, name)


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
