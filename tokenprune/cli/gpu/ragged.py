"""Measures attention of images of different lengths in one batch: each way that there is, as N and the spread of lengths grow."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tokenprune.cli.bench.ragged import masks
from tokenprune.cli.gpu.cases import Case, Row, Setup, Unsupported, status
from tokenprune.engine.blocks import ragged
from tokenprune.engine.packing import Packing
from tokenprune.errors import reason_of
from tokenprune.measure.speed import quartiles, seconds_in_turn

IMAGES, HEADS, WIDTH, RATE = 16, 6, 64, 0.7  # heads of DeiT-S
SPREADS = (0.0, 0.12, 0.3)  # standard deviation of an image's tokens, as a share of N
LOOSE = 2e-2  # largest difference from the loop over images
_ROUNDS = 20
Way = Callable[[], Tensor]


def cases(setup: Setup) -> Iterator[Case]:
    """Yield a case for each N and each spread."""
    for N in setup.lengths:
        for spread in SPREADS:
            yield Case(f"N={N}, spread {spread}", partial(measured, setup, N, spread))


def measured(setup: Setup, N: int, spread: float) -> list[Row]:
    """Return the milliseconds of each way, over those of a batch of equal lengths, and its difference from a loop over images."""
    seen = Packing.of(masks(IMAGES, N, RATE, spread).to(setup.device), 0)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, sum(seen.lengths), WIDTH, generator=generator).to(setup.device, torch.bfloat16) for _ in range(3))
    about = {"N": N, "spread": spread, "shortest": min(seen.lengths), "longest": max(seen.lengths)}
    ways, rows, wanted = _ways(q, k, v, seen, setup), [], ragged.looped(q, k, v, seen, seen, None, 0.0)
    for name, way in list(ways.items()):
        try:
            difference = float((way() - wanted).abs().max()) if name != "uniform" else None
        except Exception as error:  # a way that this device lacks
            rows.append({**about, "way": name, "status": status(error), "reason": reason_of(error)})
            del ways[name]
            continue
        good = difference is None or difference <= LOOSE
        rows.append({**about, "way": name, "difference": difference, "status": "ok" if good else "differs"})
    times = seconds_in_turn(ways, max(3, min(_ROUNDS, setup.rounds * 4)), setup.device)
    for row in rows:
        if row["way"] in times:
            mine, even = times[row["way"]], times["uniform"]
            low, high = quartiles(mine)
            ratio = median(a / b for a, b in zip(mine, even, strict=True))
            row |= {"milliseconds": 1e3 * median(mine), "low": 1e3 * low, "high": 1e3 * high, "of_uniform": ratio}
    return rows


def _ways(q: Tensor, k: Tensor, v: Tensor, seen: Packing, setup: Setup) -> dict[str, Way]:
    mean = sum(seen.lengths) // IMAGES
    even = [t[:, :, : mean * IMAGES].view(1, HEADS, IMAGES, mean, WIDTH)[0].transpose(0, 1) for t in (q, k, v)]
    return {
        "uniform": partial(torch.nn.functional.scaled_dot_product_attention, *even),
        "padded": partial(ragged.padded, q, k, v, seen, seen, None, 0.0),
        "looped": partial(ragged.looped, q, k, v, seen, seen, None, 0.0),
        "varlen": partial(_varlen, q, k, v, seen),
        "flex": _Flex(q, k, v, seen, setup.backend),
    }


def _varlen(q: Tensor, k: Tensor, v: Tensor, seen: Packing) -> Tensor:
    if not q.is_cuda or not ragged.varlen_takes(q):
        raise Unsupported("torch's varlen_attn has no kernel for this device, type or head")
    return ragged.varlen(q, k, v, seen, seen)


class _Flex:
    """Runs FlexAttention over one row with a mask of images.

    The mask is made once and is not timed, which flatters this way: a model needs one a decision.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, seen: Packing, backend: str) -> None:
        self._given, self._seen, self._backend = (q, k, v), seen, backend
        self._ready: Way | None = None

    def __call__(self) -> Tensor:
        if self._ready is None:
            T, starts = sum(self._seen.lengths), self._seen.starts
            image = torch.arange(len(self._seen.lengths), device=starts.device).repeat_interleave(starts.diff(), output_size=T)

            def same(b: Tensor, h: Tensor, asking: Tensor, key: Tensor) -> Tensor:
                return image[asking] == image[key]

            mask = create_block_mask(same, None, None, T, T, device=str(starts.device))
            run = torch.compile(flex_attention, dynamic=False) if self._backend == "inductor" else flex_attention
            self._ready = partial(run, *self._given, block_mask=mask)
        return self._ready()
