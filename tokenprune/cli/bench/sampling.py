"""Measures the goal of ATS's sampling: bisection against the distance matrix of its released algorithm."""

from functools import partial

import torch
from torch import Tensor

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.methods.selectors.ats import inverse_transform

RATE = 0.7


def measure(setup: Setup) -> list[Finding]:
    """Return the factor by which the sampling is faster than one by a matrix of distances."""
    N = setup.samples
    score = torch.rand(1, N, generator=torch.Generator().manual_seed(0))
    score, live, samples = score / score.sum(1, keepdim=True), torch.ones(1, N, dtype=torch.bool), int(RATE * N)
    calls = {"ours": partial(inverse_transform, score, live, samples), "matrix": partial(by_distances, score, samples)}
    seconds = interleaved(calls, setup.rounds, f"ATS sampling, N={N}")
    case = f"N={N}, {samples} samples, batch 1"
    return [Finding("distance matrix / ATS sampling", case, ratio(seconds["matrix"], seconds["ours"]), 100.0, at_least=True)]


def by_distances(score: Tensor, samples: int) -> Tensor:
    """Return keep (B,M) by the released algorithm: every point's distance to every entry of the CDF, duplicates dropped for each image.

    It follows the description in ATS (ECCV 2022, section 3.2) step by step: ascending sort, min-max normalised CDF, equidistant points from
    its least positive entry to 1, the nearest entry of each.
    """
    ordered, slots = score.sort(dim=1)
    cdf = ordered.cumsum(1)
    low, high = cdf[:, :1], cdf[:, -1:]
    cdf = (cdf - low) / (high - low)
    first = cdf.masked_fill(cdf == 0, 2.0).amin(1)
    points = torch.stack([torch.linspace(float(y), 1.0, samples) for y in first])
    nearest = torch.cdist(points.unsqueeze(-1), cdf.unsqueeze(-1)).argmin(-1)  # (B,K) from (B,K,M)
    found = [torch.unique(image) for image in nearest]
    rows = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
    keep = torch.zeros(*score.shape, dtype=torch.bool)
    for image, row in enumerate(rows):
        keep[image, slots[image, row[row >= 0]]] = True
    return keep
