"""Compares two classifiers that were judged on the same images: the paired difference of their accuracies, and McNemar's exact test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 1.96  # standard errors that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Paired:
    """Holds the comparison of two classifiers on the same images.

    Attributes:
        images: Number of images.
        first_only: Images that the first one alone has right.
        second_only: Images that the second one alone has right.
        difference: Top-1 of the first minus that of the second, in points.
        error: Standard error of that difference over images, in points.
        p: Two-sided p-value of McNemar's exact test: how likely so uneven a split is if each image that only one has right is a fair coin.
    """

    images: int
    first_only: int
    second_only: int
    difference: float
    error: float
    p: float

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the difference, in points."""
        return self.difference - SURE * self.error, self.difference + SURE * self.error


def compared(first: Tensor, second: Tensor) -> Paired:
    """Return the comparison of two classifiers.

    Args:
        first: Whether the first one is right, (n,) bool.
        second: The same of the second one, for the same images in the same order.
    """
    images, alone, other = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    gap = (alone - other) / images
    variance = ((alone + other) / images - gap**2) / images
    return Paired(images, alone, other, 100 * gap, 100 * math.sqrt(max(variance, 0.0)), mcnemar(alone, other))


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947): a binomial test of share 1/2."""
    n, least = first_only + second_only, min(first_only, second_only)
    tail = sum(math.exp(_log_choose(n, k) - n * math.log(2)) for k in range(least + 1))
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number by Holm's step-down procedure (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


def agreement(first: Tensor, second: Tensor) -> float:
    """Return the share of images, in points, for which two classifiers predict the same class, right or wrong.

    Args:
        first: Predicted classes, (n,).
        second: The same of the other one.
    """
    return 100 * torch.eq(first, second).double().mean().item()


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
