"""Draws how decisions grow: time and memory over N, and time over the batch."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from tokenprune.cli.bench import scale
from tokenprune.cli.bench.goals import Finding
from tokenprune.report.figures.shared.panels import BLACK, SMALL, looks, new_figure, open_axis

_PANELS = {
    scale.TIME: ("N, tokens", "ms a decision"),
    scale.MEMORY: ("N, tokens", "MiB at most"),
    scale.BATCH: ("images in a batch", "ms an image"),
}
_FAINT = "#b9b9b9"
_NAMED = 8  # curves in colour: as many as colours


def draw(findings: Sequence[Finding], path: Path) -> None:
    """Draw the findings of `scale.measure` as a PNG.

    In colour are the selectors whose time grows faster than attention's, the steepest ones if there are many, and then those of most time
    at the greatest N. The others are grey.
    """
    named = _named(findings)
    style = {name: {"color": _FAINT, "linewidth": 0.8, "zorder": 1} for name in {f.curve[0] for f in findings if f.curve}}
    style |= {name: {**look, "markersize": 4, "zorder": 2} for name, look in zip(named, looks(), strict=False)}
    style[scale.YARDSTICK] = {"color": BLACK, "linestyle": "--", "zorder": 3}
    figure = new_figure(13.5, 4.4, "The cost of one decision as tokens and batches grow")
    axes = figure.subplots(1, len(_PANELS))
    for axis, goal in zip(axes, _PANELS, strict=True):
        _panel(axis, goal, [f for f in findings if f.goal == goal], style)
    handles, labels = axes[0].get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    shown = [name for name in (scale.YARDSTICK, *named) if name in found]
    figure.legend([found[name] for name in shown], shown, loc="outside right upper", fontsize=SMALL, frameon=False)
    figure.savefig(path, dpi=130)


def _named(findings: Sequence[Finding]) -> list[str]:
    grown = sorted((f for f in findings if f.goal == scale.GROWTH and not f.met), key=lambda f: -f.value.median)
    points = [(f.curve[1], f.value.median, f.curve[0]) for f in findings if f.goal == scale.TIME and f.curve]
    longest = max((x for x, _, _ in points), default=0)
    costly = [name for x, _, name in sorted(points, reverse=True) if x == longest and name != scale.YARDSTICK]
    return list(dict.fromkeys([*(f.curve[0] for f in grown if f.curve), *costly]))[:_NAMED]


def _panel(axis: Axes, goal: str, findings: Sequence[Finding], style: dict[str, dict]) -> None:
    for name, look in style.items():
        points = sorted((f.curve[1], f.value.median) for f in findings if f.curve and f.curve[0] == name)
        axis.plot(*zip(*points, strict=True), label=name, **look) if points else None
    open_axis(axis).set(xscale="log", yscale="log", xlabel=_PANELS[goal][0], ylabel=_PANELS[goal][1])
    places = sorted({f.curve[1] for f in findings if f.curve})
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()
