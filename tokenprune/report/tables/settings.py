"""Says in what rows of one name differ, where neither their treatment nor their keep rate tells them apart."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tokenprune.runs.run_key import relevant_of

_NAMED = ("label", "treatment", "cls", "keep_rate", "size")  # columns that the reader sees anyway
_SEEDS = {("seed",), ("training", "seed")}
_MOST = 2  # settings of one row
Place = tuple[str, ...]


def settings(rows: Sequence[Mapping[str, Any]], named: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each row the settings in which it differs from others of its name, "" if there are none or it stands alone.

    Args:
        rows: Result rows.
        named: What the reader sees of each: `_NAMED` and `configuration`, a digest without the seed.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, facts in enumerate(named):
        groups.setdefault(tuple(str(facts[name]) for name in _NAMED), []).append(number)
    found = [""] * len(rows)
    for group in groups.values():
        if len({named[number]["configuration"] for number in group}) > 1:
            chosen = [dict(_leaves(rows[number]["config"])) for number in group]
            counted = [dict(_leaves(relevant_of(rows[number]["config"]))) for number in group]
            every = dict.fromkeys(place for of in chosen for place in of if place not in _SEEDS)  # no digests of files, which none chose
            places = [place for place in every if len({str(of.get(place)) for of in counted}) > 1][:_MOST]
            for number, of in zip(group, chosen, strict=True):
                found[number] = ", ".join(f"{place[-1]} {_short(of.get(place))}" for place in places)
    return found


def _leaves(config: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, (*place, str(key)))
    else:
        yield place, config


def _short(value: Any) -> str:
    """Return a value as text, the path of a file as its name."""
    return PurePath(value).name if isinstance(value, str) and "/" in value else str(value)
