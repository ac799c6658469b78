"""Mean intersection over union and pixel accuracy of a whole split, with a standard error over its images."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Confusion:
    """What the confusion matrix of a split says of its classes, kept image by image: its diagonal, its row sums and its column sums.

    Intersection over union and accuracy need no more of it, and a matrix of all classes for each image would not fit into memory.
    """

    def __init__(self, classes: int) -> None:
        """classes: K."""
        self.classes = classes
        self._images: list[Tensor] = []

    def add(self, truth: Tensor, predicted: Tensor) -> None:
        """Count one image: classes of pixels (h,w), long, of the truth, negative where a pixel has none, and of the prediction."""
        labelled = truth >= 0
        truth, predicted = truth[labelled], predicted[labelled]
        sets = (truth[truth == predicted], truth, predicted)
        self._images.append(torch.stack([torch.bincount(s.cpu(), minlength=self.classes) for s in sets]))

    @property
    def counts(self) -> Tensor:
        """Return pixels (I,3,K), long: hit, in the truth and in the prediction, of each image and class."""
        return torch.stack(self._images) if self._images else torch.zeros(0, 3, self.classes, dtype=torch.long)


def mean_iou(counts: Tensor) -> float:
    """Return mIoU in points of counts (I,3,K) summed over images.

    Classes that occur neither in the truth nor in the predictions have no IoU and are left out of the mean; one that is only predicted
    counts with 0. 0 where nothing is labelled.
    """
    hit, true, predicted = counts.sum(0).double()
    union = true + predicted - hit
    there = union > 0
    return 100 * float((hit[there] / union[there]).mean()) if there.any() else 0.0


def pixel_accuracy(counts: Tensor) -> float:
    """Return the share of labelled pixels that are right, in points, of counts (I,3,K); 0 where nothing is labelled."""
    hit, true, _ = counts.sum((0, 2)).tolist()
    return 100 * hit / true if true else 0.0


def miou_error(counts: Tensor, draws: int, seed: int = 0) -> float:
    """Return the standard error of mIoU over images: its deviation over `draws` samples of as many images with repetition, seeded."""
    generator = torch.Generator().manual_seed(seed)
    samples: Iterable[Tensor] = (torch.randint(len(counts), (len(counts),), generator=generator) for _ in range(draws))
    return float(torch.tensor([mean_iou(counts[sample]) for sample in samples], dtype=torch.float64).std())
