"""Mean intersection over union against a loop over pixels."""

import math

import pytest
import torch

from tokenprune.measure.miou import Confusion, mean_iou, pixel_accuracy, resampled_miou


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
    assert error(counts, 50) == 0, "both classes are always right"
    half = torch.tensor([[[8, 8, 8]], [[0, 8, 0]]]).repeat(50, 1, 1)  # one class: hit of 8, missed all 8
    half = half.reshape(100, 3, 1)
    assert mean_iou(half) == 50 and error(half, 2000) == pytest.approx(100 * math.sqrt(0.25 / 100), rel=0.06)
    assert error(half, 20, seed=1) == error(half, 20, seed=1)


def error(counts, draws, seed=0):
    return float(resampled_miou(counts, draws, seed).values["miou"].std())


def test_two_models_are_compared_on_the_same_resamples():
    """Against mIoU by the definition, of the images that each resample draws."""
    torch.manual_seed(0)
    truths = [torch.randint(0, 3, (6, 6)) for _ in range(5)]
    models = [[torch.where(torch.rand(6, 6) < share, t, torch.randint(0, 3, (6, 6))) for t in truths] for share in (0.7, 0.4)]
    one, other = (resampled_miou(made(list(zip(truths, labels, strict=True)), 3), 8) for labels in models)
    generator = torch.Generator().manual_seed(0)
    for number in range(8):
        drawn = torch.randint(5, (5,), generator=generator).tolist()
        direct = [by_loop([(truths[i], labels[i]) for i in drawn], 3)[0] for labels in models]
        gap = one.values["miou"][number] - other.values["miou"][number]
        assert gap.item() == pytest.approx(direct[0] - direct[1])
    assert one.draws == other.draws and one.pictures == 5
    moved = resampled_miou(made(list(zip(truths[::-1], models[0], strict=True)), 3), 8)
    assert moved.draws != one.draws != resampled_miou(made(list(zip(truths, models[0], strict=True)), 3), 9).draws
