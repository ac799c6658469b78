"""Sets the thresholds of dynamic gates after training, so that usage meets its target (SViT constrains the mean probability only)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.decision import Decision
from tokenprune.engine.hooks import DecisionListener
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.errors import TokenPruneError
from tokenprune.measure.usage import record
from tokenprune.utils.modes import evaluating


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
        for number, selector in pruned.selectors.items():
            if selector.calibration_images:
                with _listening(pruned, int(number)) as heard:
                    for batch in batches:
                        encode(batch)
                if heard.scores:  # none where the schedule of the moment has no decision in that block
                    selector.calibrate(torch.cat(heard.scores), keep=heard.keep)


@dataclass
class _Heard:
    """Collects the scores (n,) of each batch's candidates, and how many tokens should stay in all batches. Fused tokens do not count."""

    scores: list[Tensor] = field(default_factory=list)
    keep: float = 0.0

    def __call__(self, seen: Observation, budget: Budget, decision: Decision) -> None:
        if decision.score is None:
            raise TokenPruneError(f"block {seen.block}: a selector that is calibrated must give scores; set `score` in its Decision")
        self.scores.append(decision.score[seen.live & (seen.state.index >= 0)])
        self.keep += float(budget.rate) * seen.live.shape[0] * seen.state.positions


@contextmanager
def _listening(pruned: PrunedViT, block: int) -> Iterator[_Heard]:
    heard, before = _Heard(), pruned.listener
    pruned.listener = DecisionListener(block, heard)
    try:
        yield heard
    finally:
        pruned.listener = before
