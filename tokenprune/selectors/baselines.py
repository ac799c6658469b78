"""Baselines: random, pixel variance, and top-k attention (Cropr section 4.1)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import InvalidConfig
from tokenprune.indexing import take
from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, keep_top
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision, TokenState

SCORES = ("cls", "mean_query", "column_mean")


@register("selector", "topk")
class AttentionTopK(Selector):
    """Keeps the tokens that receive most attention.

    Args:
        context: see `Context`.
        score: `cls` the class token's row; `mean_query` the mean query's row (no class token needed, O(N)); `column_mean` the
            mean over all queries, Cropr's Attn Top-K on dense tasks, which costs about as much as the attention itself.
    """

    site = "inside"
    reads_cls = True
    module = "attention-based"
    paper = "Cropr's baseline"

    def __init__(self, context: Context, score: str = "cls") -> None:
        super().__init__(context)
        if score not in SCORES:
            raise InvalidConfig(f"topk: score is {score!r}; allowed: {', '.join(SCORES)}")
        self.source = score

    @classmethod
    def wants_cls(cls, options: Mapping[str, Any]) -> bool:
        """Tell whether `score` is the class token's row, the default."""
        return options.get("score", "cls") == "cls"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the `budget.keep` slots of most attention, heads averaged."""
        rows = {"cls": seen.cls_row, "mean_query": seen.mean_query, "column_mean": seen.column_mean}
        return keep_top(rows[self.source]().mean(1), seen.live, budget.keep)

    def macs(self, slots: float) -> float:
        """Return the second pass over the logits that the column mean needs; a single row is part of the block."""
        return slots * slots * self.context.dim if self.source == "column_mean" else 0.0


@register("selector", "variance")
class PixelVariance(Selector):
    """Keeps the patches whose (normalised) input pixels vary most: mean over channels of the variance over the patch."""

    module = "parameter-free"
    paper = "Cropr's baseline"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the slots of greatest pixel variance; fused tokens, which have no pixels, stay."""
        variance = seen.pixels().var(-1, unbiased=False).mean(-1)  # (B,N)
        return keep_top(at_slots(variance, seen.state), seen.live, budget.keep)


@register("selector", "random")
class RandomSelector(Selector):
    """Keeps tokens at random; at test time the draw depends on seed, block and the image alone, not on its batch mates.

    Args:
        context: see `Context`.
        seed: of the draw at test time.
    """

    module = "parameter-free"
    paper = "Cropr's baseline"

    def __init__(self, context: Context, seed: int = 0) -> None:
        super().__init__(context)
        self.seed = seed

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep `budget.keep` slots drawn without replacement."""
        return keep_top(uniform(seen, None if self.training else self.seed), seen.live, budget.keep)


def uniform(seen: Observation, seed: int | None) -> Tensor:
    """Return uniform numbers in [0,1) at the slots (B,M), infinite without a position: `image_noise` of a seed, fresh ones for None."""
    B, N, pixels = seen.live.shape[0], seen.state.positions, seen.state.pixels
    fresh = seed is None or pixels is None
    return at_slots(torch.rand(B, N, device=seen.live.device) if fresh else image_noise(pixels, N, seed, seen.block), seen.state)


def at_slots(values: Tensor, state: TokenState) -> Tensor:
    """Return per-position values (B,N) at the slots (B,M), infinite where a slot has no position."""
    return take(values, state.index.clamp(min=0)).masked_fill(state.index < 0, float("inf"))


def image_noise(pixels: Tensor, count: int, seed: int, block: int) -> Tensor:
    """Return (B,count) uniform numbers in [0,1), a hash of each image's exact pixels: same image, same numbers, on any device."""
    content = pixels.float().contiguous().view(torch.int32).flatten(1).sum(1, dtype=torch.int64)  # integer, so order does not matter
    place = torch.arange(count, device=pixels.device, dtype=torch.int64)
    salt = ((seed * 8191 + block + 1) * 0x1D8E4E27C47D124F) % 2**62
    x = content.unsqueeze(1) * 0x2545F4914F6CDD1D + place * 0x632BE59BD9B4E019 + salt
    for shift, factor in ((31, 0x3C79AC492BA7B653), (29, 0x1C69B3F74AC4AE35), (32, 1)):
        x = (x ^ (x >> shift)) * factor
    return (x & 0xFFFFFF).double().div(0x1000000).float()
