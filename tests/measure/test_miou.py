"""Mean intersection over union against a loop over pixels."""

import math

import pytest
import torch

from tokenprune.measure.miou import Confusion, mean_iou, miou_error, pixel_accuracy


def by_loop(pairs, classes):
    """mIoU and accuracy by the definition, pixel by pixel."""
    matrix = [[0] * classes for _ in range(classes)]
    for truth, predicted in pairs:
        for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            if t >= 0:
                matrix[t][p] += 1
    shares = []
    for c in range(classes):
        union = sum(matrix[c]) + sum(row[c] for row in matrix) - matrix[c][c]
        if union:
            shares.append(matrix[c][c] / union)
    total = sum(map(sum, matrix))
    return 100 * sum(shares) / len(shares), 100 * sum(matrix[c][c] for c in range(classes)) / total


def made(pairs, classes):
    found = Confusion(classes)
    for truth, predicted in pairs:
        found.add(truth, predicted)
    return found.counts


def test_a_split_of_images_of_different_sizes():
    torch.manual_seed(0)
    pairs = [(torch.randint(-1, 5, (h, w)), torch.randint(0, 5, (h, w))) for h, w in ((5, 7), (9, 3), (4, 4))]
    counts = made(pairs, 8)  # classes 5 to 7 never occur
    miou, accuracy = by_loop(pairs, 8)
    assert counts.shape == (3, 3, 8) and mean_iou(counts) == pytest.approx(miou) and pixel_accuracy(counts) == pytest.approx(accuracy)
    apart = sum(by_loop([pair], 8)[0] for pair in pairs) / 3
    assert mean_iou(counts) != pytest.approx(apart), "one matrix for the split, not a mean over images"


def test_by_hand():
    """Class 0: 2 of 3; class 1: 1 of 2; class 2 predicted once and never there: 0; class 3: nowhere, left out."""
    truth, predicted = torch.tensor([[0, 0, 1, 1, -1]]), torch.tensor([[0, 0, 1, 0, 3]])
    assert mean_iou(made([(truth, predicted)], 4)) == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    predicted = torch.tensor([[0, 0, 1, 2, 3]])
    counts = made([(truth, predicted)], 4)
    assert mean_iou(counts) == pytest.approx(100 * (1 + 1 / 2 + 0) / 3) and pixel_accuracy(counts) == 75


def test_nothing_labelled_is_zero_and_not_nan():
    nothing = made([(torch.full((3, 3), -1), torch.zeros(3, 3, dtype=torch.long))], 4)
    assert (mean_iou(nothing), pixel_accuracy(nothing)) == (0, 0) and Confusion(4).counts.shape == (0, 3, 4)


def test_the_standard_error_is_that_of_the_images():
    """Two kinds of images, of mIoU 100 and 0 with equal unions: mIoU is the share s of the first kind, its error sqrt(s (1 - s) / n)."""
    one, other = torch.zeros(4, 4, dtype=torch.long), torch.full((4, 4), 1)
    counts = made([(one, one)] * 50 + [(other, other)] * 50, 2)
    assert miou_error(counts, 50) == 0, "both classes are always right"
    half = torch.tensor([[[8, 8, 8]], [[0, 8, 0]]]).repeat(50, 1, 1)  # one class: hit of 8, missed all 8
    half = half.reshape(100, 3, 1)
    assert mean_iou(half) == 50 and miou_error(half, 2000) == pytest.approx(100 * math.sqrt(0.25 / 100), rel=0.06)
    assert miou_error(half, 20, seed=1) == miou_error(half, 20, seed=1)
