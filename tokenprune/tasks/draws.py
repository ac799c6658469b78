"""Judges a model whose gates are drawn at test time: several draws, their mean and their spread."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from tokenprune.engine.selector import Selector


def over_draws(
    selectors: Sequence[Selector], draws: int, judged: Callable[[], Mapping[str, float]], spread: Sequence[str]
) -> dict[str, float]:
    """Return the mean of every number over draws of the gates.

    Args:
        selectors: The selectors of the model. If none of them draws at test time, the model is judged once.
        draws: How often to draw, each time with the next seed. The last draw is the selectors' own.
        judged: Judges the model and returns its numbers.
        spread: Numbers of which `NAME_spread`, the standard deviation from draw to draw, is returned where there are several draws.
    """
    count = draws if any(selector.draws for selector in selectors) else 1
    found = []
    for number in [*range(1, count), 0]:
        for selector in selectors:
            selector.redraw(number)
        found.append(judged())
    spreads = {f"{name}_spread": stdev(numbers[name] for numbers in found) for name in spread} if count > 1 else {}
    return {name: fmean(numbers[name] for numbers in found) for name in found[0]} | spreads
