"""Defines a control that knows the grid alone (after TokenReduction's radial patterns): it keeps tokens near the centre of the image."""

import torch

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.methods.selectors.shared.noise import at_slots
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

NORMS = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}


@register("selector", "radial")
class RadialPattern(Selector):
    """Keeps the positions nearest to the centre of the grid, whatever the image shows; in a tie the earlier position stays.

    TokenReduction masks all positions within a radius; this selector meets the schedule's count.

    Args:
        context: see `Context`.
        norm: Norm of the distance: `l1` (a diamond), `l2` (a disc) or `linf` (a square).

    Raises:
        InvalidConfig: The norm is unknown.
    """

    module = "parameter-free"
    paper = "TokenReduction's control, ICCVW 2023"

    def __init__(self, context: Context, norm: str = "l2") -> None:
        super().__init__(context)
        self.norm = NORMS[one_of(self.name, "norm", norm, NORMS)]

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` most central slots. Fused tokens have no place and stay."""
        (H, W), device = seen.state.grid, seen.live.device
        row, column = ((2 * torch.arange(n, device=device) - (n - 1)).abs().float() for n in (H, W))  # half steps from the centre
        place = torch.stack(torch.meshgrid(row, column, indexing="ij"), -1).flatten(0, 1)
        distance = place.square().sum(-1) if self.norm == 2.0 else place.norm(self.norm, dim=-1)  # squares are exact, so ties stay
        central = (distance.max() - distance).expand(seen.live.shape[0], -1)
        return keep_top(at_slots(central, seen.state), seen.mask, budget.keep)
