"""Sets the thresholds of dynamic gates after training, so that usage meets its target (SViT constrains the mean probability only)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.selector import Selector
from tokenprune.engine.state import Decision
from tokenprune.measure.usage import record
from tokenprune.utils.modes import evaluating


class _Seen(Exception):
    """Ends a forward pass once the selector to calibrate has been called."""


def images_wanted(pruned: PrunedViT) -> int:
    """Return how many training images the selectors want for calibration; 0 for none."""
    return max((selector.calibration_images for selector in pruned.selectors.values()), default=0)


@torch.no_grad()
def mean_usage(pruned: PrunedViT, encode: Callable[[Any], Any], batches: Sequence[Any]) -> float:
    """Return the mean share of positions that a block's attention uses, over blocks and images, in evaluation mode."""
    with evaluating(pruned), record(pruned) as seen:
        for batch in batches:
            encode(batch)
    return float(torch.stack([image.blocks.float().mean() for image in seen.images]).mean())


@torch.no_grad()
def calibrate(pruned: PrunedViT, encode: Callable[[Any], Any], batches: Sequence[Any]) -> None:
    """Calibrate the selectors block by block: each one sees the tokens that the calibrated ones before it leave.

    Args:
        pruned: The encoder, anywhere inside the model. Its mode is restored afterwards.
        encode: Runs one forward pass of a batch up to the encoder's last block; heads are not needed.
        batches: Training images, in the form that `encode` takes.
    """
    with evaluating(pruned):
        for selector in pruned.selectors.values():
            if selector.calibration_images:
                scores: list[tuple[Tensor, float]] = []
                with _listening(selector, scores):
                    for batch in batches:
                        with suppress(_Seen):
                            encode(batch)
                selector.calibrate(torch.cat([values for values, _ in scores]), keep=sum(share for _, share in scores))


@contextmanager
def _listening(selector: Selector, scores: list[tuple[Tensor, float]]) -> Iterator[None]:
    """Note each batch's candidate scores and how many tokens should stay in it, and end the pass there. Fused tokens do not count."""
    original = selector.score

    def listen(seen: Observation, budget: Any) -> Decision:
        decision = original(seen, budget)
        scores.append((decision.score[seen.live & (seen.state.index >= 0)], float(budget.rate) * seen.live.shape[0] * seen.state.positions))
        raise _Seen

    selector.score = listen  # type: ignore[method-assign]
    try:
        yield
    finally:
        del selector.score
