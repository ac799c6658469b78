"""Computes mean intersection over union and pixel accuracy of a whole split, with a standard error over its images."""

import torch
from torch import Tensor

from tokenprune.measure.resamples import Resampled, draws_of


class Confusion:
    """Keeps the diagonal, the row sums and the column sums of the confusion matrix, image by image.

    Intersection over union and accuracy need no more, and a matrix of all classes for each image would not fit into memory.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int) -> None:
        """Start without images."""
        self.classes = classes
        self._images: list[Tensor] = []
        self.pixels = 0  # all that were seen, with and without a class

    def add(self, truth: Tensor, predicted: Tensor) -> None:
        """Count one image.

        Args:
            truth: Classes of the pixels, (h,w) long; negative where a pixel has none.
            predicted: Predicted classes, (h,w) long.
        """
        labelled = truth >= 0
        self.pixels += truth.numel()
        truth, predicted = truth[labelled], predicted[labelled]
        sets = (truth[truth == predicted], truth, predicted)
        self._images.append(torch.stack([torch.bincount(s.cpu(), minlength=self.classes) for s in sets]))

    @property
    def counts(self) -> Tensor:
        """Return the pixels of each image and class, (I,3,K) long: hits, pixels in the truth and pixels in the prediction."""
        return torch.stack(self._images) if self._images else torch.zeros(0, 3, self.classes, dtype=torch.long)

    @property
    def ignored(self) -> float:
        """Return the share of the pixels that have no class, 0 if none was seen."""
        return 1 - int(self.counts[:, 1].sum()) / self.pixels if self.pixels else 0.0


def mean_iou(counts: Tensor) -> float:
    """Return mIoU in points, of counts (I,3,K) summed over images.

    Classes that occur neither in the truth nor in the predictions have no IoU and are left out of the mean. A class that is only predicted
    counts with 0. The result is 0 if nothing is labelled.
    """
    hit, true, predicted = counts.sum(0).double()
    union = true + predicted - hit
    there = union > 0
    return 100 * float((hit[there] / union[there]).mean()) if there.any() else 0.0


def pixel_accuracy(counts: Tensor) -> float:
    """Return the share of labelled pixels that are right, in points, of counts (I,3,K), or 0 if nothing is labelled."""
    hit, true, _ = counts.sum((0, 2)).tolist()
    return 100 * hit / true if true else 0.0


def resampled_miou(counts: Tensor, draws: int, seed: int = 0) -> Resampled:
    """Return mIoU over seeded bootstrap samples of the images; its deviation over them is the standard error of mIoU.

    Args:
        counts: Counts of each image, (I,3,K).
        draws: Number of samples; each draws as many images as there are, with repetition.
        seed: Seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.randint(len(counts), (len(counts),), generator=generator) for _ in range(draws)]
    values = torch.tensor([mean_iou(counts[sample]) for sample in samples], dtype=torch.float64)
    same = draws_of(counts[:, 1].numpy().tobytes(), torch.stack(samples).numpy().tobytes())
    return Resampled({"miou": values}, len(counts), same)
