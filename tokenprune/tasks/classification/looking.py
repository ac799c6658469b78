"""Shows pictures of any size as a classifier sees them: the tokens that it used, what they cost, and its best guesses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tokenprune.engine.model import PrunedViT
from tokenprune.measure.macs import encoder_macs
from tokenprune.measure.usage import record
from tokenprune.tasks.classification.settings import View
from tokenprune.tasks.classification.views import EvaluationView, Statistics, as_input, collate
from tokenprune.tasks.pictures import Guesses, Picture, traced

_GUESSES = 5
_GIGA = 1e9


@dataclass(frozen=True)
class Look:
    """Says how a classifier sees a picture.

    Args:
        view: The test's view. None takes a picture of the right size as it is, and shows another one by timm's defaults.
        side: Side in pixels that the model takes.
        statistics: Mean and standard deviation of each channel, on the 0..255 scale.
        names: Names of the classes; may be shorter than the head.
    """

    view: View | None
    side: int
    statistics: Statistics
    names: Sequence[str] = ()

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return the view of a picture (h,w,3) uint8, (side,side,3) uint8."""
        if self.view is None and image.shape[:2] == (self.side, self.side):
            return image
        return EvaluationView(self.view or View(), self.side)(image)


@torch.no_grad()
def looked(model: PrunedViT, image: np.ndarray, look: Look, number: int = 0) -> Picture:
    """Return a picture as a classifier in eval mode sees it, with owners, tokens, GMAC and guesses.

    Args:
        model: The classifier.
        image: RGB pixels, (h,w,3) uint8.
        look: How it sees it.
        number: Number of the picture.
    """
    pixels = look.pixels(image)
    device = next(model.parameters()).device
    return run_on(model, as_input(collate([(pixels, 0)])[0].to(device), look.statistics), pixels, look.names, number)


@torch.no_grad()
def run_on(model: PrunedViT, x: torch.Tensor, pixels: np.ndarray, names: Sequence[str] = (), number: int = 0) -> Picture:
    """Return what a classifier in eval mode does with one normalised image.

    Args:
        model: The classifier; without a head there are no guesses.
        x: The image, (1,3,h,w).
        pixels: The same to show, (h,w,3) uint8.
        names: Names of the classes.
        number: Number of the picture.
    """
    with record(model, owners=True) as seen:
        outputs = model.encode(x)
    macs = encoder_macs(model, outputs)
    guesses = best(model.logits(outputs)[0], names) if model.num_classes > 0 else None
    trace = traced(seen.images[0], model.patch_size, *pixels.shape[:2])
    return Picture(number, pixels, patch=model.patch_size, predictions=guesses, gmac=(macs.linear / _GIGA, macs.total / _GIGA), **trace)


def best(logits: torch.Tensor, names: Sequence[str]) -> Guesses:
    """Return the best classes of logits (K,)."""
    shares, numbers = logits.float().softmax(0).topk(min(_GUESSES, len(logits)))
    return Guesses(tuple(names[k] if k < len(names) else f"class {k}" for k in numbers.tolist()), tuple(shares.tolist()))
