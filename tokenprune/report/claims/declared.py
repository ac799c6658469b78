"""Reads what papers claim: a YAML file of sentences, of the rows or columns that bear on each, and of where the papers' numbers stand.

    SViT:
      - claim: Preserving dropped tokens is better than removing them.
        where: Table 2
        rule: better                     # or `as good`; see `insights.verdicts.RULES`
        measures:
          - {in: table2_preserve, of: [ap_box, ap_mask]}
        pairs:
          - {first: {method: EViT, treatment: preserve}, second: {method: EViT, treatment: remove}}

A side is a number, or columns with the value (or values) that its lines have; `method` is the label of a row. `of` gives it a column of its
own, `less` another side that is subtracted from it, `words` a name of its own, `printed` the columns by which the paper's line is found.
A pair may have the paper's `effect` where no expected.csv holds it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tokenprune.errors import InvalidConfig, hint

BETTER, AS_GOOD = "better", "as good"
_KEYS = {
    "claim": ("claim", "where", "rule", "measures", "pairs", "note"),
    "measure": ("in", "of", "file", "printed", "over", "expected"),
    "pair": ("first", "second", "effect"),
}
_OWN = ("of", "less", "words", "printed")  # keys of a side that are no columns


@dataclass(frozen=True)
class Side:
    """Says which lines of a measured file stand on one side of a comparison.

    Attributes:
        where: Columns, each with the allowed value or values.
        value: A number that stands in place of measured lines; None if lines are measured.
        column: Column to read; "" for the one of the measure.
        less: A side whose value is subtracted; None if there is none.
        called: Words for it; "" if they are made of `where`.
        printed: Columns by which the paper's line is found; None for `where`.
    """

    where: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    column: str = ""
    less: "Side | None" = None
    called: str = ""
    printed: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """Return the side in a few words."""
        if self.value is not None:
            return f"{self.value:g}"
        named = ("method", "treatment", "name", "label")
        rest = [f"{key} {_listed(value)}" for key, value in self.where.items() if key not in named]
        whole = " ".join(str(self.where[key]).replace("_", " ") for key in named if key in self.where)
        said = self.called or ", ".join(filter(None, [whole, *rest])) or self.column
        return said if self.less is None else f"({said} − {self.less.words})"


@dataclass(frozen=True)
class Measure:
    """Says where a number is measured and where the paper prints it.

    Attributes:
        experiment: Folder under experiments/.
        columns: Columns of its measured files.
        file: Name of the measured file; "" for all tables of rows.
        printed: Column of expected.csv; "" for the measured one's name.
        over: Label of the line by which a printed number is divided; "" for none.
        expected: Folder of that expected.csv; "" for `experiment`.
    """

    experiment: str
    columns: tuple[str, ...]
    file: str = ""
    printed: str = ""
    over: str = ""
    expected: str = ""


@dataclass(frozen=True)
class Pair:
    """Holds two sides, and the paper's difference where it is no difference of printed numbers (else None)."""

    first: Side
    second: Side
    effect: float | None = None


@dataclass(frozen=True)
class Claim:
    """States what a paper claims.

    Attributes:
        paper: The paper.
        text: The claim, a sentence.
        where: Where the paper makes it.
        rule: `BETTER` (first above second) or `AS_GOOD` (first not below second).
        measures: Where it is measured.
        pairs: What is compared.
        note: What a reader has to know; "" for nothing.
    """

    paper: str
    text: str
    where: str
    rule: str
    measures: tuple[Measure, ...]
    pairs: tuple[Pair, ...]
    note: str = ""


def claims_of(path: Path) -> list[Claim]:
    """Return the claims of a file, paper by paper.

    Raises:
        InvalidConfig: The file cannot be read or has another form; the message names each fault.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidConfig(f"{path} is no readable file of claims ({error})") from error
    if not isinstance(content, Mapping) or not all(isinstance(of_one, list) for of_one in content.values()):
        raise InvalidConfig(f"{path} is no file of claims; allowed: a mapping from papers to lists of claims")
    listed = [(str(paper), number, one) for paper, of_one in content.items() for number, one in enumerate(of_one, 1)]
    problems = [f"{path.name}, {paper} {number}: {problem}" for paper, number, one in listed for problem in _problems(one)]
    if problems:
        raise InvalidConfig(problems)
    return [_claim(paper, one) for paper, _, one in listed]


def _problems(one: Any) -> Iterator[str]:
    """Yield what is wrong with one claim of the file."""
    if not isinstance(one, Mapping):
        yield f"it is {one!r}; allowed: a mapping with {', '.join(_KEYS['claim'])}"
        return
    yield from _unknown(one, "claim", ("claim", "where", "measures", "pairs"))
    if one.get("rule", BETTER) not in (BETTER, AS_GOOD):
        yield f"rule is {one['rule']!r}; allowed: {BETTER}, {AS_GOOD}"
    for kind, needed in (("measure", ("in", "of")), ("pair", ("first", "second"))):
        for part in one.get(f"{kind}s") or ():
            yield from _unknown(part, kind, needed)


def _unknown(given: Any, kind: str, needed: Sequence[str]) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"a {kind} is {given!r}; allowed: a mapping with {', '.join(_KEYS[kind])}"
        return
    for key in given:
        if key not in _KEYS[kind]:
            yield f"unknown key {key!r} of a {kind}; allowed: {', '.join(_KEYS[kind])}.{hint(key, _KEYS[kind])}"
    missing = [key for key in needed if not given.get(key) and given.get(key) != 0]
    if missing:
        yield f"a {kind} without {', '.join(missing)}; give it"


def _claim(paper: str, one: Mapping[str, Any]) -> Claim:
    measures = tuple(
        Measure(m["in"], _columns(m["of"]), *(m.get(k, "") for k in ("file", "printed", "over", "expected"))) for m in one["measures"]
    )
    pairs = tuple(Pair(_side(p["first"]), _side(p["second"]), p.get("effect")) for p in one["pairs"])
    return Claim(paper, one["claim"], one["where"], one.get("rule", BETTER), measures, pairs, one.get("note", ""))


def _columns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _side(given: Any) -> Side:
    if not isinstance(given, Mapping):
        return Side(value=float(given))
    less = _side(given["less"]) if "less" in given else None
    where = {key: value for key, value in given.items() if key not in _OWN}
    return Side(where, None, given.get("of", ""), less, given.get("words", ""), given.get("printed"))


def _listed(value: Any) -> str:
    """Return a value, or the ends of a list of consecutive whole numbers, or all values of another list."""
    if not isinstance(value, list):
        return str(value)
    run = len(value) > 2 and all(isinstance(v, int) for v in value) and value == list(range(value[0], value[-1] + 1))
    return f"{value[0]} to {value[-1]}" if run else ", ".join(map(str, value))
