"""Makes the random numbers of a selection, which depend on the seed, the block and the image alone."""

import torch
from torch import Tensor

from tokenprune.engine.indexing import recorded_by_jit, take
from tokenprune.engine.observation import Observation
from tokenprune.engine.state import TokenState


def uniform(seen: Observation, seed: int | None) -> Tensor:
    """Return uniform numbers in [0,1) at the slots, (B,M); slots without a position get infinity.

    Args:
        seen: The observation.
        seed: Seed of `image_noise`; None for new numbers each time.
    """
    B, N, pixels = seen.live.shape[0], seen.state.positions, seen.state.pixels
    if seed is None or pixels is None:
        return at_slots(torch.rand(B, N, device=seen.live.device), seen.state)
    return at_slots(image_noise(pixels, N, seed, seen.block), seen.state)


def of_prefix(seen: Observation, seed: int) -> Tensor:
    """Return a uniform number in [0,1) for the first prefix token, (B,1)."""
    B, N, pixels = seen.live.shape[0], seen.state.positions, seen.state.pixels
    return torch.rand(B, 1, device=seen.live.device) if pixels is None else image_noise(pixels, N + 1, seed, seen.block)[:, N:]


def at_slots(values: Tensor, state: TokenState) -> Tensor:
    """Return per-position values (B,N) at the slots, (B,M). Slots without a position get infinity."""
    return take(values, state.index.clamp(min=0)).masked_fill(state.index < 0, float("inf"))


def bits(x: Tensor) -> Tensor:
    """Return the bits of single-precision numbers as signed integers."""
    if not recorded_by_jit():
        return x.contiguous().view(torch.int32)
    fraction, exponent = torch.frexp(x)  # a traced program cannot look at a tensor as another type
    digits = (fraction.abs() * 2**24).long()
    normal = digits + (exponent.long() + 125) * 2**23  # the leading digit adds one to the exponent
    small = digits.double() * (exponent.double() + 125).exp2()  # subnormal numbers
    unsigned = torch.where(exponent > -126, normal, small.long()).where(x != 0, 0)
    return unsigned - x.signbit().long() * 2**31


def image_noise(pixels: Tensor, count: int, seed: int, block: int) -> Tensor:
    """Return (B,count) uniform numbers in [0,1): a hash of each image's exact pixels, so that an image gets the same ones on any device."""
    # A sum of integers does not depend on its order.
    content = bits(pixels.float()).flatten(1).sum(1, dtype=torch.int64)
    place = torch.arange(count, device=pixels.device, dtype=torch.int64)
    salt = ((seed * 8191 + block + 1) * 0x1D8E4E27C47D124F) % 2**62
    x = content.unsqueeze(1) * 0x2545F4914F6CDD1D + place * 0x632BE59BD9B4E019 + salt
    for shift, factor in ((31, 0x3C79AC492BA7B653), (29, 0x1C69B3F74AC4AE35), (32, 1)):
        x = (x ^ (x >> shift)) * factor
    return (x & 0xFFFFFF).double().div(0x1000000).float()
