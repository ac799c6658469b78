"""Writes one HTML page that shows which tokens each model keeps of each picture. It needs no file beside it and fetches nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.report.show import svg
from tokenprune.report.show.answers import Found, found_in, names_in
from tokenprune.report.show.pixels import data_uri
from tokenprune.report.show.shown import Entry, Frame, Shown, frames, hue
from tokenprune.tasks.pictures import Guesses

_TEMPLATES = Path(__file__).parents[1] / "templates"
_LINE = 0.09  # of a patch: width of outlines
_BAR, _STEP = 30, 10  # height of the tallest bar, and from one bar to the next


@dataclass(frozen=True)
class Group:
    """Holds the patches that speak as one token, as paths."""

    hue: int
    cells: str
    outline: str
    words: str


@dataclass(frozen=True)
class Step:
    """Holds one frame, as paths and words."""

    first: int
    last: int
    blocks: str
    counts: str
    gone: str
    groups: tuple[Group, ...]
    stroke: str


@dataclass(frozen=True)
class Guess:
    """Holds one guess; `agrees` if it is the best one of the dense model."""

    name: str
    percent: str
    words: str
    agrees: bool


@dataclass(frozen=True)
class Bar:
    """Holds the bar of one block in the chart of tokens."""

    x: int
    y: str
    height: str
    words: str


@dataclass(frozen=True)
class Stored:
    """Holds the pixels of a picture, as models of one input size see them, and the name by which frames use them."""

    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """Holds what the page says of one model and one picture."""

    stored: Stored
    label: str
    about: str
    frames: tuple[Step, ...]
    bars: tuple[Bar, ...]
    bars_words: str
    gmac: str
    gmac_words: str
    guesses: tuple[Guess, ...]
    found: Found | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """Holds what the page says of one picture; `stored` are its pixels, once for all models that see the same ones."""

    name: str
    stored: tuple[Stored, ...]
    cards: tuple[Card, ...]


def in_html(shown: Sequence[Shown], title: str, sentences: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        shown: One or more pictures, each with what the models did with it.
        title: Title of the page.
        sentences: What stands below it, such as the model and its weights.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    sheets = [_sheet(number, one) for number, one in enumerate(shown)]
    engine = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    merges = any(step.groups for sheet in sheets for card in sheet.cards for step in card.frames)
    facts: dict[str, Any] = {"title": title, "sentences": sentences, "sheets": sheets, "merges": merges}
    return engine.get_template("show.html").render(**facts, depth=max(one.depth for one in shown))


def _sheet(number: int, shown: Shown) -> Sheet:
    names = names_in(entry.picture for entry in shown.entries)
    stored: dict[tuple[tuple[int, ...], bytes], Stored] = {}
    cards = []
    for entry in shown.entries:
        pixels = entry.picture.pixels
        key = (pixels.shape, pixels.tobytes())
        if key not in stored:
            stored[key] = Stored(f"picture-{number}-{len(stored)}", data_uri(pixels), pixels.shape[1], pixels.shape[0])
        cards.append(_card(entry, stored[key], shown.dense, names))
    return Sheet(shown.name, tuple(stored.values()), tuple(cards))


def _card(entry: Entry, stored: Stored, dense: Entry | None, names: Sequence[str]) -> Card:
    picture = entry.picture
    steps = [(frame, _step(frame, picture.patch)) for frame in frames(picture)]
    tokens = picture.tokens or ()
    words = "tokens by block: " + ", ".join(map(str, tokens))
    return Card(
        stored,
        entry.label,
        entry.about,
        tuple(step for _, step in steps),
        tuple(_bars(tokens)),
        words,
        *gmac_in_words(entry, dense),
        _guesses(picture.predictions, dense),
        found_in(picture, names),
        entry.notes,
    )


def _bars(tokens: Sequence[int]) -> Iterator[Bar]:
    for block, count in enumerate(tokens):
        height = _BAR * count / max(tokens)
        yield Bar(_STEP * block, f"{_BAR - height:.2f}", f"{height:.2f}", f"block {block}: {count} tokens")


def _step(frame: Frame, patch: int) -> Step:
    width = max(1.0, _LINE * patch)
    groups = []
    for label, mask in frame.groups.items():
        words = f"{int(mask.sum())} patches speak as one token"
        groups.append(Group(hue(label), svg.cells(mask, patch), svg.outline(mask, patch, width / 2), words))
    return Step(frame.first, frame.last, frame.blocks, frame.counts, svg.cells(frame.gone, patch), tuple(groups), f"{width:g}")


def gmac_in_words(entry: Entry, dense: Entry | None) -> tuple[str, str]:
    """Return the GMAC of an entry, and words that compare them with the dense model's and give the other convention."""
    if entry.picture.gmac is None:
        return "?", ""
    linear, total = entry.picture.gmac
    against = "" if dense is None or dense is entry or dense.picture.gmac is None else f", {total / dense.picture.gmac[1]:.0%} of dense"
    return f"{total:.3g}", f"{against} (layers with weights alone: {linear:.3g})"


def _guesses(guesses: Any, dense: Entry | None) -> tuple[Guess, ...]:
    if not isinstance(guesses, Guesses):
        return ()
    other = None if dense is None else dense.picture.predictions
    best = other.names[0] if isinstance(other, Guesses) else None
    pairs = zip(guesses.names, guesses.shares, strict=True)
    return tuple(Guess(name, f"{100 * share:.4g}", f"{share:.1%}", name == best) for name, share in pairs)
