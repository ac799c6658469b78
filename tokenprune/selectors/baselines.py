"""Baselines that look at no feature: random and pixel variance (Cropr section 4)."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.indexing import take
from tokenprune.registry import register
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context, Selector, keep_top
from tokenprune.selectors.observation import Observation
from tokenprune.state import Decision, TokenState

TRAIT = "pixel_variance"


@register("selector", "variance")
class PixelVariance(Selector):
    """Keeps the patches whose (normalised) input pixels vary most: mean over channels of the variance over the patch."""

    module = "parameter-free"
    paper = "Cropr's baseline"

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the slots of greatest pixel variance, looked up once an image; fused tokens, which have no pixels, stay."""
        if TRAIT in seen.state.traits:
            return keep_top(seen.trait(TRAIT, missing=float("inf")), seen.live, budget.keep)
        variance = seen.pixels().var(-1, unbiased=False).mean(-1)  # (B,N)
        found = at_slots(variance, seen.state)
        return replace(keep_top(found, seen.live, budget.keep), traits={TRAIT: found})


@register("selector", "random")
class RandomSelector(Selector):
    """Keeps tokens at random; at test time the draw depends on seed, block and the image alone, not on its batch mates.

    Args:
        context: see `Context`.
        seed: of the draw at test time; None draws afresh then, too, which is faster than hashing images.
    """

    module = "parameter-free"
    paper = "Cropr's baseline"

    def __init__(self, context: Context, seed: int | None = 0) -> None:
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
