"""Finds the Pareto front: the lines that no other line beats in both accuracy and cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COSTS = {  # column -> (its name for people, whether less of it is better)
    "gmac_total": ("encoder GMAC", True),
    "speedup_encoder": ("encoder speed-up over dense, batch 1", False),
    "speedup_batch": ("speed-up over dense in batches", False),
}


def on_front(data: "pd.DataFrame", cost: str, score: str, less: bool = True) -> "pd.Series":
    """Tell for each line if no other has as good a cost and as good a score, one of them better. Equal lines are on the front together.

    Args:
        data: Lines with the columns `cost` and `score`. A line without one of them is not on the front and beats none.
        cost: The column of the cost.
        score: The column of the score.
        less: Whether less of the cost is better.
    """
    import pandas as pd

    points = data[[cost, score]].apply(pd.to_numeric, errors="coerce")
    known = points.dropna()
    price, value = known[cost] if less else -known[cost], known[score]

    def beaten(p: float, v: float) -> bool:
        return bool(((price <= p) & (value >= v) & ((price < p) | (value > v))).any())

    best = [not beaten(p, v) for p, v in zip(price, value, strict=True)]
    return pd.Series(best, index=known.index, dtype=bool).reindex(data.index, fill_value=False)


def costs_of(data: "pd.DataFrame") -> list[str]:
    """Return the columns of `COSTS` in which the lines have a number."""
    return [name for name in COSTS if name in data and data[name].notna().any()]


def in_words(data: "pd.DataFrame", score: str, names: "Sequence[str]") -> list[str]:
    """Return a sentence for each cost: the lines on its front, the cheapest first, by their `names` (one a line)."""
    sentences = []
    for cost in costs_of(data):
        title, less = COSTS[cost]
        called = data.assign(name=list(names))[on_front(data, cost, score, less)].sort_values(cost, ascending=less)
        if len(called):
            sentences.append(f"Pareto front, {title}: {', '.join(dict.fromkeys(called['name']))}.")
    return sentences
