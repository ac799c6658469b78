"""Defines DToP (Tang et al., 2023) as Cropr compares with it: tokens leave once a head inside the encoder classifies them confidently."""

from torch import Tensor, nn

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector, keep_top
from tokenprune.errors import InvalidConfig
from tokenprune.methods.layers import start
from tokenprune.registry import register

TRAIT = "logits"


@register("selector", "dtop")
class DToP(Selector):
    """Classifies every patch token by a norm and a linear layer; the most confident leave, as many as the schedule says (Cropr 4.2).

    Confidence is the greatest softmax probability. The logits are the trait `logits` of each position, (B,P+N,K). A position that has left
    keeps the logits of its exit, which a segmenter shows instead of those of its own head. In training the logits are also the note
    `token_logits`; `losses.auxiliary` makes a loss of it, whose gradient reaches the encoder. The original DToP lets tokens leave above a
    fixed confidence.

    A model that is planned before a task has given its number of classes has no heads, and their MACs are missing in its plan.

    Args:
        context: see `Context`.

    Raises:
        InvalidConfig: A choice is asked for and there are fewer than two classes.
    """

    learns = True
    taught_by = "auxiliary"
    needs = ("patches",)
    module = "auxiliary head on every token"
    paper = "DToP, ICCV 2023, with a fixed number (Cropr section 4.2)"
    published = {"treatment": "remove", "schedule": {"name": "per_block", "remove": 40}}

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        told = context.classes > 1
        self.head = nn.Sequential(nn.LayerNorm(context.dim), nn.Linear(context.dim, context.classes)) if told else None
        self.weights = context.dim * context.classes * told
        self.apply(start)
        self.normed = context.dim * told

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of least confidence, and store the predictions of all."""
        if self.head is None:
            raise InvalidConfig(
                f"dtop: there are {self.context.classes} classes to tell; allowed: 2 and more, of the model's own head or of `classes`;"
                " use task=segmentation, or selector=cropr, which can do without"
            )
        logits = self.head(seen.tokens)  # (B,M,K)
        confidence = logits.float().softmax(-1).amax(-1)
        notes = {"token_logits": (logits, seen.state.index.where(seen.live, -1))} if self.training else {}
        return keep_top(-confidence, seen.mask, budget.keep, traits={TRAIT: self._stored(seen, logits)}, notes=notes)

    def macs(self, slots: float) -> float:
        """Return M C K, over all slots."""
        return slots * float(self.weights)

    def _stored(self, seen: Observation, logits: Tensor) -> Tensor:
        """Return the logits of live slots. Dead slots, which masked execution still holds, keep the logits that they left with."""
        if seen.complete or TRAIT not in seen.state.traits:
            return logits
        return logits.where(seen.live.unsqueeze(-1), seen.trait(TRAIT).to(logits.dtype))
