"""Dataclasses from mappings."""

from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from tokenprune.errors import InvalidConfig
from tokenprune.utils.settings import read_settings


@dataclass(frozen=True)
class Part:
    size: int = 1


@dataclass(frozen=True)
class Example:
    count: int
    rate: float = 0.5
    name: str | None = None
    pair: tuple[int, int] = (1, 2)
    nested: tuple[tuple[float, ...], ...] = ()
    on: bool = False
    part: Part = Part()
    extra: Part | None = None


def test_types_are_brought_into_shape():
    given = {"count": 3, "rate": 1, "pair": [4, 5], "nested": [[1, 2.5], [3]], "name": "x"}
    for values in (given, OmegaConf.create(given)):
        assert read_settings(Example, values, "part") == Example(3, 1.0, "x", (4, 5), ((1.0, 2.5), (3.0,)))


def test_interpolations_are_resolved():
    node = OmegaConf.create({"seed": 7, "part": {"count": "${seed}"}})
    assert read_settings(Example, node.part, "part").count == 7


def test_every_problem_at_once_with_its_place():
    with pytest.raises(InvalidConfig) as error:
        read_settings(Example, {"rat": 1, "pair": [1], "on": 1, "rate": "fast"}, "part")
    text = str(error.value)
    assert "part.rat is not a setting, did you mean 'rate'?" in text and "part.count is missing" in text
    assert "part.pair is [1]" in text and "part.on is 1" in text and "part.rate is 'fast'" in text
    assert len(error.value.problems) == 5


def test_bool_is_no_number():
    with pytest.raises(InvalidConfig, match="part.count is True"):
        read_settings(Example, {"count": True, "rate": 0.1}, "part")


def test_dataclasses_of_fields_are_read_from_mappings():
    assert read_settings(Example, {"count": 1, "part": {"size": 2}}, "top") == Example(1, part=Part(2))
    assert read_settings(Example, {"count": 1, "extra": {}}, "top").extra == Part()
    assert read_settings(Example, OmegaConf.create({"count": 1, "extra": None}), "top").extra is None
    with pytest.raises(InvalidConfig) as error:
        read_settings(Example, {"part": {"siz": 2}, "extra": {"size": "big"}}, "top")
    assert len(error.value.problems) == 3
    assert "top.part.siz is not a setting, did you mean 'size'" in str(error.value) and "top.extra.size is 'big'" in str(error.value)
    with pytest.raises(InvalidConfig, match="top.part is 3, allowed is a Part"):
        read_settings(Example, {"count": 1, "part": 3}, "top")
