"""Defines SPViT's selector (Kong et al., ECCV 2022, section 4): a classifier for each head's channels, weighted heads, a package token."""

import torch
from torch import Tensor, nn

from tokenprune.engine.decision import Decision
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.methods.selectors.shared.gated import GatedSelector
from tokenprune.registry import register


class HeadwiseGate(nn.Module):
    """Classifies tokens by h classifiers, one for the d = C/h channels of each head, and weighs their votes.

    A classifier is LN, Linear(d, d), GELU; then half of the channels stay local and half become a mean over kept tokens; then
    Linear(d, d/2), GELU, Linear(d/2, d/4), GELU, Linear(d/4, 2). The weight of its vote is the output of a squeeze-and-excitation branch,
    h -> h/2 -> h, on the h channel means. The released code gives all heads the weights of one classifier; the paper gives one to each, as
    here.

    Args:
        dim: Channels C.
        heads: Number of heads h.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        d, squeezed = dim // heads, max(heads // 2, 1)
        self.heads, self.squeezed, self.sizes = heads, squeezed, (d, d, d // 2, d // 4, 2)
        self.norm = nn.GroupNorm(heads, dim, eps=1e-5)  # on single tokens: a LayerNorm of each head
        layers = [nn.Conv1d(heads * a, heads * b, 1, groups=heads) for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        self.into = nn.Sequential(layers[0], nn.GELU())
        self.out = nn.Sequential(layers[1], nn.GELU(), layers[2], nn.GELU(), layers[3])
        self.vote = nn.Sequential(nn.Linear(heads, squeezed), nn.GELU(), nn.Linear(squeezed, heads), nn.Sigmoid())
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and probabilities, (B,M,2) each, index 0 = keep.

        Decisions are drawn from the first: the weighted mean of the heads' log-probabilities, normalised. Dropped tokens are packed by the
        second: the weighted mean of the heads' probabilities.

        Args:
            tokens: Tokens, (B,M,C).
            policy: How far a token counts in the means over tokens, (B,M).
        """
        B, M = policy.shape
        x = self.norm(tokens.flatten(0, 1)).view(B, M, -1).transpose(1, 2)
        local, shared = self.into(x).unflatten(1, (self.heads, -1)).chunk(2, 2)  # (B,h,d/2,M)
        weight = policy.view(B, 1, 1, M)
        mean = (shared * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1e-6)
        logits = self.out(torch.cat([local, mean.expand_as(shared)], 2).flatten(1, 2)).view(B, self.heads, 2, M).to(tokens.dtype)
        votes = self.vote(tokens.unflatten(-1, (self.heads, -1)).mean(-1))  # (B,M,h)
        votes = (votes / votes.sum(-1, keepdim=True)).transpose(1, 2).unsqueeze(2)
        log_probs, probs = ((votes * of_head).sum(1).transpose(1, 2) for of_head in (logits.log_softmax(2), logits.softmax(2)))
        return log_probs.log_softmax(-1), probs

    def macs(self, slots: float) -> float:
        """Return N (h (d^2 + d^2/2 + d^2/8 + d/2) + h^2)."""
        own = sum(a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        return slots * self.heads * (own + 2 * self.squeezed)


@register("selector", "spvit")
class SPViTClassifier(GatedSelector):
    """Gates tokens head by head, with soft visibility in training; `fuse` packs the dropped tokens, and earlier packages always stay.

    At test each image keeps its own number of tokens, as in the paper: those that the gate favours. The released code draws at test
    (`eval_mode: sample`). Under `topk` packages are part of the schedule's count.

    Args:
        context: see `Context`.
        eval_mode: see `GatedSelector`.
        calibration_images: see `GatedSelector`.
        tau: see `GatedSelector`.
        seed: see `GatedSelector`.

    Raises:
        InvalidConfig: The eval_mode is unknown, or the number of images is negative.
    """

    visibility = "soft"
    paper = "SPViT, ECCV 2022"
    published = {"treatment": "fuse", "schedule": {"name": "explicit", "keep": {3: 0.617, 6: 0.369, 9: 0.137}}}

    def __init__(
        self, context: Context, eval_mode: str = "threshold", calibration_images: int = 64, tau: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(context, eval_mode, calibration_images, tau, seed)
        self.gate = HeadwiseGate(context.dim, context.heads)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the sampled gate in training and the choice of `eval_mode` at test time. Packages have no position and stay."""
        log_probs, probs = self.gate(seen.tokens, seen.policy())
        packages = seen.live & (seen.state.index < 0)
        return self.decide(seen, budget, log_probs, packages).replace(weight=probs[..., 0])

    def macs(self, slots: float) -> float:
        """Return N (h (d^2 + d^2/2 + d^2/8 + d/2) + h^2)."""
        return self.gate.macs(slots)
