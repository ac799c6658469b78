"""Defines EViT's selector (Liang et al., ICLR 2022, section 3.2): attention of the class token, after attention and before the MLP."""

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector, keep_top
from tokenprune.registry import register


@register("selector", "evit")
class EViTAttentiveness(Selector):
    """Scores tokens by class-token attention averaged over heads; the paper keeps ceil(keep_rate * current), which the schedule sets."""

    site = Site.INSIDE
    reads_cls = True
    module = "attention-based"
    paper = "EViT, ICLR 2022"
    published = {"treatment": "fuse", "schedule": {"name": "stages", "of": "current", "rounding": "ceil"}}

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots that the class token attends to most; a fused token competes like any other."""
        return keep_top(seen.cls_row().mean(1), seen.mask, budget.keep)
