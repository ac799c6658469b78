"""Defines AdaViT (Meng et al., CVPR 2022): policies for the tokens, attention heads and sub-layers of every block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.decision import Branch, Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context, Selector
from tokenprune.methods.selectors.shared.gates import at_least_one
from tokenprune.registry import register
from tokenprune.utils.settings import one_of

VARIANTS = ("fixed", "released")


@register("selector", "adavit")
class AdaViTPolicies(Selector):
    """Decides by three linear policies a block: the class token's for heads (C -> h) and sub-layers (C -> 2), each patch's own (C -> 1).

    Tokens are normalised first, without the scale and shift of the block's own norm, which a linear layer learns anyway. A token that is
    not selected is no key of the block and is not changed by it; any later block may select it. Heads and sub-layers are switched off by
    multiplication (`blocks.switched`). At least one token an image stays. The released code also narrows the MLP to the channels of the
    heads that are on, lets the class token alone stay, and has policies for tokens only before block `keep_layers`: `variant: released`,
    which wants schedule.start=0. (Without its flag --ada-token-with-mlp it lets dropped tokens through the MLP; this class does not.)

    Args:
        context: see `Context`.
        tau: Temperature of the Gumbel-sigmoid in training.
        threshold: A head or sub-layer runs if its probability is above this.
        token_threshold: A token stays if its probability is above this; 0.6 in the released code.
        variant: `fixed` or `released`.
        keep_layers: Under `released`, the number of blocks whose heads and sub-layers all run.

    Raises:
        InvalidConfig: The variant is unknown.
    """

    budget = "dynamic"
    count_role = "blocks"
    gated = True
    reads_cls = True
    saves_computation = False
    learns = True
    module = "gating module"
    paper = "AdaViT, CVPR 2022"
    published = {"treatment": "reactivate", "schedule": {"name": "free"}}

    def __init__(
        self,
        context: Context,
        tau: float = 5.0,
        threshold: float = 0.5,
        token_threshold: float = 0.6,
        variant: str = "fixed",
        keep_layers: int = 1,
    ) -> None:
        super().__init__(context)
        self.tau, self.threshold, self.token_threshold = tau, threshold, token_threshold
        self.released = self.may_keep_none = one_of("adavit", "variant", variant, VARIANTS) == "released"
        self.switches = not self.released or context.block >= keep_layers
        if self.switches:
            self.heads = nn.Linear(context.dim, context.heads)
            self.sublayers = nn.Linear(context.dim, 2)
        self.patches = nn.Linear(context.dim, 1)

    @property
    def caveat(self) -> str:
        """Return the remark on the meaning of its MACs and seconds."""
        return (
            "GMAC are expected ones, of the tokens, heads and sub-layers that were used; heads and sub-layers are masked, not skipped,"
            " so no speed is claimed; usage is held to the targets of its loss, not of the schedule"
        )

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Decide from the tokens that enter the block."""
        tokens = self.patches(F.layer_norm(seen.tokens, seen.tokens.shape[-1:], eps=1e-6)).squeeze(-1).to(seen.tokens.dtype)
        branch = self._branch(seen.state.prefix[:, 0]) if self.switches else None
        gate = self._gate(tokens, self.token_threshold)
        keep = (gate > 0.5) & seen.live
        keep = keep if self.released else at_least_one(keep, tokens, seen.live)  # the class token is seen in any case
        gate = gate + (keep.to(gate.dtype) - gate).detach() if self.training else None
        notes = {} if branch is None else {"branch": branch}
        return Decision(keep, score=tokens.sigmoid(), gate=gate, branch=branch, notes=notes)

    def _branch(self, cls: Tensor) -> Branch:
        """Return the gates of heads and sub-layers from the class token (B,C)."""
        heads, sublayers = (self._gate(layer(cls).to(cls.dtype), self.threshold) for layer in (self.heads, self.sublayers))
        return Branch(heads, sublayers, self.released)

    def _gate(self, logits: Tensor, threshold: float) -> Tensor:
        """Return 0/1 gates: sigmoid(logits) > threshold. In training they have noise and a straight-through gradient."""
        if not self.training:
            return (logits.sigmoid() > threshold).to(logits.dtype)
        return gumbel_sigmoid(logits, self.tau, threshold)

    def macs(self, slots: float) -> float:
        """Return N C + (h + 2) C."""
        return (slots + (self.context.heads + 2) * self.switches) * self.context.dim


def gumbel_sigmoid(logits: Tensor, tau: float, threshold: float) -> Tensor:
    """Return sigmoid((logits + g1 - g2) / tau) > threshold as 0/1, with the gradient of the sigmoid; g1 and g2 are Gumbel noise."""
    noise = torch.rand_like(logits.float()).clamp(1e-6, 1 - 1e-6).logit()  # the difference of two Gumbel variables is logistic
    soft = ((logits.float() + noise) / tau).sigmoid()
    return ((soft > threshold).float() - soft.detach() + soft).to(logits.dtype)
