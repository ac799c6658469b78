"""Compares two models by a metric over resamples of the validation pictures that both saw: the paired bootstrap (Efron 1979)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.measure.paired import SURE


@dataclass(frozen=True)
class Resampled:
    """Holds the metrics of a model over resamples of the validation pictures.

    Attributes:
        values: Metric by name, one number a resample in points, (R,) float64; NaN where a resample has none, such as an AP without objects.
        pictures: Number of pictures; a resample draws as many of them, with repetition.
        draws: Number that two models share if resample r of both holds the same pictures with the same labels (`draws_of`).
    """

    values: Mapping[str, Tensor]
    pictures: int
    draws: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors, for a file."""
        return {**self.values, "pictures": torch.tensor(self.pictures), "draws": torch.tensor(self.draws)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Resampled":
        """Return what `tensors` stored.

        Raises:
            KeyError: They are no `tensors`.
        """
        values = dict(tensors)
        pictures, draws = (int(values.pop(name)) for name in ("pictures", "draws"))
        return cls(values, pictures, draws)


@dataclass(frozen=True)
class PairedResamples:
    """Holds the comparison of two models on the same pictures.

    Attributes:
        difference: The metric of the first on all pictures minus that of the second, in points.
        error: Standard error of that difference over pictures: its standard deviation over the resamples. Infinite where fewer than two
            resamples have both metrics.
    """

    difference: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the difference, in points."""
        return self.difference - SURE * self.error, self.difference + SURE * self.error

    @property
    def p(self) -> float:
        """Return the two-sided p-value of a normal test: how likely so large a difference is if there is none."""
        if self.error == 0:
            return float(self.difference == 0)
        return math.erfc(abs(self.difference) / self.error / math.sqrt(2))


def compared(difference: float, first: Tensor, second: Tensor) -> PairedResamples:
    """Return the comparison of two models.

    Args:
        difference: The metric of the first on all pictures minus that of the second.
        first: The metric of the first over resamples, (R,).
        second: The same of the second, over the same resamples.
    """
    gaps = (first - second)[~(first.isnan() | second.isnan())]
    return PairedResamples(difference, float(gaps.std()) if len(gaps) > 1 else math.inf)


def mean_of(several: Sequence[Resampled]) -> Resampled:
    """Return the mean over judgements of one model on the same resamples, which differ in what the model draws; at least one."""
    first = several[0]
    values = {name: torch.stack([one.values[name] for one in several]).mean(0) for name in first.values}
    return Resampled(values, first.pictures, first.draws)


def draws_of(*parts: bytes) -> int:
    """Return the number `Resampled.draws` for what the labels and the draws depend on."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # a tensor holds 63 bits and a sign
