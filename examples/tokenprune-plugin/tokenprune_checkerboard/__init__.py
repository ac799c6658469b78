"""A selector from outside tokenprune: tokens in the order of a checkerboard."""

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector, keep_top
from tokenprune.methods.selectors.shared.noise import at_slots
from tokenprune.registry import register

BITS = 6  # of a coordinate: the pattern repeats every 64 patches


@register("selector", "checkerboard")
class Checkerboard(Selector):
    """Keeps patches spread evenly over the grid, whatever the image shows: half of them are a checkerboard, a quarter every second row."""

    module = "parameter-free"
    paper = "a control; ordered dithering after Bayer, 1973"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots that come first in the order; fused tokens, which have no place, stay."""
        first = -order(*seen.state.grid).flatten().float().to(seen.live.device)
        return keep_top(at_slots(first.expand(seen.live.shape[0], -1), seen.state), seen.live, budget.keep)


def order(rows: int, columns: int) -> Tensor:
    """Return Bayer's threshold of each position, (rows, columns): the lower, the earlier it is taken."""
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None]
    threshold = torch.zeros(rows, columns, dtype=torch.long)
    for bit in range(BITS):  # the lowest bits of the coordinates weigh most
        threshold = 4 * threshold + 2 * (((row ^ column) >> bit) & 1) + ((row >> bit) & 1)
    return threshold
