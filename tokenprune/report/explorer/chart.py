"""Makes the chart of the interactive page with Altair, and the script of Vega-Lite that draws it without a network."""

import re
from functools import cache
from typing import Any

from tokenprune.errors import MissingDependency

COLOURS = (  # of selectors; each can be told from white and from near black
    "#1f77b4", "#e6750d", "#2ca02c", "#d64545", "#9467bd", "#a0685a", "#d95fa8", "#8f8f20", "#17a5b5", "#5b7fd9", "#b8860b", "#4f9d69",
    "#c2557a", "#7d6bd1", "#cf6f3c", "#4793a8", "#8aa03c", "#a85fb8",
)  # fmt: skip
NEUTRAL = "#808893"  # of models that keep every token
SHAPES = {  # of treatments, as Vega names them; the others are crosses
    "none": "M0,-1.6L0.448,-0.576L1.52,-0.496L0.72,0.224L0.944,1.296L0,0.736L-0.944,1.296L-0.72,0.224L-1.52,-0.496L-0.448,-0.576Z",
    "remove": "circle", "preserve": "square", "reactivate": "diamond", "fuse": "triangle-up", "merge": "triangle-down",
    "last_layer_fusion": "triangle-right",
}  # fmt: skip
OTHER_SHAPE = "cross"
_HEIGHT = 380  # pixels
_MISSING = (
    "the page is written without its interactive part, because Altair or vl-convert is not installed: pip install 'tokenprune[page]'"
    " (or `make setup`); --static says that none is wanted"
)


@cache
def script() -> str:
    """Return the JavaScript of Vega-Lite, which defines `vegaEmbed`.

    Raises:
        MissingDependency: Altair or vl-convert is not installed.
    """
    return _library()[1].javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())


@cache
def specification() -> dict[str, Any]:
    """Return the Vega-Lite specification of the chart.

    The page gives it the data sets `points`, `front` and `dense` and the signal `focus`. Of `points`: id, x, y, low, high, colour,
    shape, text, mark ("A" or "B" for a row that is compared) and words.

    Raises:
        MissingDependency: See `script`.
    """
    alt, _ = _library()
    focus = alt.param("focus", value="")
    x = alt.X("x:Q", title=None, scale=alt.Scale(zero=False, nice=True, padding=14))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=True, padding=14))
    points = alt.Chart(alt.NamedData("points"))
    marks = points.mark_point(filled=True, strokeWidth=1.5, cursor="pointer").encode(
        x,
        y,
        color=alt.Color("colour:N", scale=None),
        shape=alt.Shape("shape:N", scale=None),
        size=alt.condition("datum.id === focus", alt.value(260), alt.value(95)),
        opacity=alt.condition("focus === '' || datum.id === focus", alt.value(1), alt.value(0.55)),
        description="words:N",
    )
    bars = points.mark_rule(strokeWidth=1.3, aria=False).encode(
        alt.X("x:Q"), alt.Y("low:Q"), alt.Y2("high:Q"), alt.Color("colour:N", scale=None)
    )
    rates = points.mark_text(dx=7, dy=-7, align="left", fontSize=10, aria=False).encode(x, y, text="text:N")
    chosen = points.mark_text(dx=-11, dy=-9, fontSize=13, fontWeight="bold", aria=False).encode(x, y, text="mark:N")
    front = alt.Chart(alt.NamedData("front")).mark_line(strokeWidth=7, strokeCap="round", strokeJoin="round", opacity=0.35, color="#8a8a8a")
    front = front.encode(x, y, description=alt.value("the Pareto front"))
    dense = alt.Chart(alt.NamedData("dense")).mark_rule(strokeDash=[5, 4], strokeWidth=1, color=NEUTRAL, aria=False).encode(y)
    chart = alt.layer(front, dense, bars, marks, rates, chosen).add_params(focus).properties(width="container", height=_HEIGHT)
    chart = chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding", resize=True))  # rows come and go
    chart = chart.configure(font="system-ui, sans-serif", background="transparent").configure_view(stroke=None)
    return chart.to_dict()


def _library() -> tuple[Any, Any]:
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise MissingDependency(_MISSING) from error
    return altair, vl_convert


def _version() -> str:
    """Return the version of Vega-Lite that Altair writes, without its last number."""
    found = re.match(r"v?(\d+\.\d+)", _library()[0].SCHEMA_VERSION)
    return found.group(1) if found else ""
