"""Defines SViT's selector (Liu et al., WACV 2024, section 3.2): a 2-layer MLP gate on every token, Gumbel-softmax in training, Eq. 1."""

import torch

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.shared.gated import GatedSelector
from tokenprune.methods.selectors.shared.gates import GATES
from tokenprune.registry import register


@register("selector", "svit")
class SViTGate(GatedSelector):
    """Gates tokens by a 2-layer MLP: LN, Linear(C, C/4), GELU, Linear(C/4, 2); 9 gates add 341,298 parameters to DeiT-S.

    The class token is no candidate of any gate. In the released classification model it is a candidate of the gate before the last block,
    and a class token that is dropped there passes that block by, unseen (`drops_cls`).

    Args:
        context: see `Context`.
        gate: `mlp`, or `complex` for DynamicViT's predictor in its place (SViT Table 4).
        eval_mode: see `GatedSelector`.
        calibration_images: see `GatedSelector`.
        init_keep_bias: Added to the keep logit at initialisation. It is 0 as released, so training starts by dropping about half.
        tau: see `GatedSelector`.
        seed: see `GatedSelector`.
        drops_cls: Whether the gate before the last block, if there is one, may drop the class token, as in the released classification
            model.

    Raises:
        InvalidConfig: The gate or eval_mode is unknown, the number of images is negative, or there is no class token to drop.
    """

    paper = "SViT, WACV 2024"
    published = {"treatment": "reactivate", "schedule": {"name": "every_block"}}

    def __init__(
        self,
        context: Context,
        gate: str = "mlp",
        eval_mode: str = "threshold",
        calibration_images: int = 64,
        init_keep_bias: float = 0.0,
        tau: float = 1.0,
        seed: int = 0,
        drops_cls: bool = False,
    ) -> None:
        super().__init__(context, eval_mode, calibration_images, tau, seed)
        if gate not in GATES:
            raise InvalidConfig(f"svit: gate is {gate!r}; allowed: {', '.join(GATES)}")
        if drops_cls and not context.prefix:
            raise InvalidConfig("svit: drops_cls is true, and the model has no class token to drop; allowed there: false")
        self.gate = GATES[gate](context.dim)
        self.judges_cls = drops_cls and context.block == context.depth - 1
        with torch.no_grad():
            self.gate.last.bias[0] += init_keep_bias

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate in training, and the choice of `eval_mode` at test time."""
        if self.gate.alone and not self.judges_cls:
            x, first = seen.state.holder()
            return self.decide(seen, budget, self.gate(x, None)[:, first:])
        policy = seen.policy()
        if not self.judges_cls:
            return self.decide(seen, budget, self.gate(seen.tokens, policy))
        candidates = torch.cat([seen.state.prefix[:, :1], seen.tokens], 1)
        log_probs = self.gate(candidates, torch.cat([torch.ones_like(policy[:, :1]), policy], 1))
        return self.decide(seen, budget, log_probs[:, 1:], of_cls=log_probs[:, :1])

    def macs(self, slots: float) -> float:
        """Return the gate's MACs: N (C^2/4 + C/2) for the MLP."""
        return self.gate.macs(slots)
