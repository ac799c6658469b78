"""Draws differences with their intervals, one panel a claim (their sizes differ by orders), and the paper's difference as a mark."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from tokenprune.report.insights.claims import METRICS, Comparison, verdict_of_claims
from tokenprune.report.insights.verdicts import FAILS, HOLDS, UNDECIDABLE, UNDECIDED, interval

_STYLES = {"ap_box": ("#0072b2", "o", -0.18, "box AP"), "ap_mask": ("#d55e00", "s", 0.18, "mask AP")}
_VERDICTS = {HOLDS: "#007a3d", FAILS: "#b00020", UNDECIDED: "#666666", UNDECIDABLE: "#666666"}
_LONGEST = 6  # standard errors that fit into a panel; intervals of two seeds may be longer and are cut off
_SPREAD = "#dddddd"


def draw(comparisons: Sequence[Comparison], path: Path, where: str) -> Figure:
    """Draw comparisons (`claims.compare`) and write the figure.

    Args:
        comparisons: At least one.
        path: PNG or PDF.
        where: Scale and data of the rows, for the title.

    Returns:
        The figure, for notebooks.
    """
    claims = {claim: words for claim, words in verdict_of_claims(comparisons).items() if any(c.claim is claim for c in comparisons)}
    of = [[c for c in comparisons if c.claim is claim] for claim in claims]
    rates = list(dict.fromkeys(comparison.keep_rate for comparison in comparisons))
    heights = [len(some) / len(METRICS) + 0.6 for some in of]
    figure = Figure(figsize=(11, 1.6 + 0.62 * sum(heights) + 0.35 * len(of)), layout="constrained")
    panels = figure.subplots(len(of), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, some, (claim, words) in zip(panels, of, claims.items(), strict=True):
        _panel(axis, some)
        axis.set_title(f"{claim.name}: {claim.text}: {words}", fontsize=9, loc="left")
    panels[-1].set_xlabel("difference in AP points, first minus second; right of 0 the first is better", fontsize=9)
    at = f", keep rate {rates[0]:g}" if len(rates) == 1 and rates[0] else ""
    figure.suptitle(f"SViT's four insights, {where}{at}", fontsize=11)
    figure.legend(handles=_handles(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    return figure


def _panel(axis: Axes, comparisons: Sequence[Comparison]) -> None:
    pairs = comparisons[:: len(METRICS)]
    for number, comparison in enumerate(comparisons):
        _mark(axis, comparison, number // len(METRICS))
    axis.axvline(0, color="#222222", linewidth=0.9, zorder=1)
    names = [f"{pair.first}\n− {pair.second}" + (f"\n({pair.setting})" if pair.setting else "") for pair in pairs]
    axis.set_yticks(range(len(pairs)), names, fontsize=8)
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlim(*_limits(comparisons))
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _mark(axis: Axes, comparison: Comparison, place: int) -> None:
    colour, marker, offset, _ = _STYLES[comparison.metric]
    y, gap = place + offset, comparison.gap
    if comparison.claim.rule == "as good" and not math.isnan(comparison.spread):
        axis.add_patch(Rectangle((-comparison.spread, y - 0.15), 2 * comparison.spread, 0.3, color=_SPREAD, zorder=0))
    if gap is not None and gap.n > 1:
        axis.errorbar(gap.mean, y, xerr=gap.mean - interval(gap)[0], color=colour, linewidth=1, capsize=3, zorder=2)
        axis.errorbar(gap.mean, y, xerr=gap.error, color=colour, linewidth=3.5, zorder=3)
    if gap is not None:
        axis.plot(gap.mean, y, marker, color=colour, markersize=6, zorder=4)
    if not math.isnan(comparison.paper):
        axis.plot(comparison.paper, y, "D", markerfacecolor="white", markeredgecolor=colour, markersize=6, zorder=5)
    seeds = "no seed has both" if gap is None else f"{gap.n} seed" + "s" * (gap.n > 1)
    words = f"{comparison.verdict} ({seeds})"
    axis.text(1.01, y, words, transform=axis.get_yaxis_transform(), va="center", fontsize=8, color=_VERDICTS[comparison.verdict])


def _limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    ends = [0.0]
    for comparison in comparisons:
        gap = comparison.gap
        if gap is not None:
            reach = min(gap.mean - interval(gap)[0], _LONGEST * gap.error) if gap.n > 1 else 0.0
            ends += [gap.mean - reach, gap.mean + reach]
        ends += [] if math.isnan(comparison.paper) else [comparison.paper]
        ends += [-comparison.spread, comparison.spread] if comparison.claim.rule == "as good" and comparison.spread > 0 else []
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _handles() -> list[Line2D | Patch]:
    marks = [Line2D([], [], color=c, marker=m, linewidth=0, label=f"{title}, mean over seeds") for c, m, _, title in _STYLES.values()]
    grey = {"color": "#444444"}
    return [
        *marks,
        Line2D([], [], linewidth=3.5, label="thick: ± standard error over seeds", **grey),
        Line2D([], [], linewidth=1, label="thin: 95 % interval (Student's t, paired by seed)", **grey),
        Line2D([], [], linewidth=0, marker="D", markerfacecolor="white", label="the paper's difference (COCO)", **grey),
        Patch(color=_SPREAD, label="± spread over seeds, which `as good as` allows"),
    ]
