"""Measures how far two selectors agree: rank correlation of the usage of each token, and overlap of the sets that each block keeps.

Shapes as in `measure.usage`: I images, L blocks, N positions. S selectors are compared pair by pair.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.measure.usage import layers_per_token

if TYPE_CHECKING:
    import numpy as np


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return |A and B| / |A or B| of the sets that two selectors use: (...,L,N) bool each -> (...,L) float.

    The value is NaN for blocks that both use whole, where there is nothing to agree on, and for blocks where both use nothing.
    """
    return _without_whole(first, second, (first & second).sum(-1) / (first | second).sum(-1))


def chance(first: Tensor, second: Tensor) -> Tensor:
    """Return the overlap that random sets of the same sizes a, b have: (a b / N) / (a + b - a b / N).

    Shapes and NaN are as in `overlap`.
    """
    a, b, N = first.sum(-1), second.sum(-1), first.shape[-1]
    both = a * b / N
    return _without_whole(first, second, both / (a + b - both))


def rank_correlation(scores: Sequence[Tensor]) -> "np.ndarray":
    """Return Spearman's rank correlation (S,S) of scores (N,) of the same N tokens.

    Ties share a rank. The value is NaN if all scores are equal.
    """
    import pandas as pd

    table = pd.DataFrame({number: values.double().numpy() for number, values in enumerate(scores)})
    return table.corr(method="spearman").to_numpy()


def usage_correlation(usages: Sequence[Tensor]) -> "np.ndarray":
    """Return the rank correlation (S,S) of the number of blocks that use each token of one image, for usages (L,N) bool."""
    return rank_correlation([layers_per_token(usage) for usage in usages])


def _without_whole(first: Tensor, second: Tensor, values: Tensor) -> Tensor:
    return values.where(~(first & second).all(-1), torch.tensor(float("nan")))
