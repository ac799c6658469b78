"""Makes the interactive part of a report: a chart with axes to choose, filters, one table, and two rows compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.report.explorer import chart
from tokenprune.report.explorer.lines import lines_of
from tokenprune.report.explorer.metrics import METRICS
from tokenprune.report.explorer.pairs import maps_of, pairs_of

if TYPE_CHECKING:
    from tokenprune.report.page.sections import Section


@dataclass(frozen=True)
class Explorer:
    """Holds what a page needs to be interactive.

    Attributes:
        script: JavaScript that draws charts.
        content: Everything that the page's own script reads, for JSON.
    """

    script: str
    content: Mapping[str, Any]


def available() -> None:
    """Check that the library of the interactive part is installed.

    Raises:
        MissingDependency: It is not; the message says how to install it.
    """
    chart.specification()


def explorer(sections: "Sequence[Section]") -> Explorer | None:
    """Return the interactive part of a report; None if there is no row.

    Raises:
        MissingDependency: See `available`.
    """
    lines: list[dict[str, Any]] = []
    pairs, resamples = [], []
    for section in sections:
        found = list(lines_of(section))
        rows = [(len(lines) + number, group) for number, (_, group) in enumerate(found)]
        maps = maps_of(rows, section.stored, section.folders)
        lines += [{**line, "id": number, "map": maps.get(number)} for (line, _), (number, _) in zip(found, rows, strict=True)]
        found_pairs = pairs_of(rows, section.stored)
        pairs += found_pairs.images
        resamples += found_pairs.resamples
    if not lines:
        return None
    content = {
        "lines": lines,
        "pairs": pairs,
        "resamples": resamples,
        "metrics": [{name: getattr(m, name) for name in ("name", "title", "short", "less", "score", "digits", "counted")} for m in METRICS],
        "colours": dict(_colours(lines)),
        "shapes": {line["treatment"]: chart.SHAPES.get(line["treatment"], chart.OTHER_SHAPE) for line in lines},
        "chart": chart.specification(),
    }
    return Explorer(chart.script(), content)


def _colours(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each selector with its colour, in the order of the alphabet; colours repeat where there are more selectors."""
    yield "none", chart.NEUTRAL
    names = sorted({line["selector"] for line in lines} - {"none"})
    yield from ((name, chart.COLOURS[number % len(chart.COLOURS)]) for number, name in enumerate(names))
