"""Cells, padding and foreground of a picture, against loops."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.measure.usage import Used
from tokenprune.tasks.pictures import Picture, Predictions, cropped


def picture(height, width, patch, masks, scores):
    H, W = -(-height // patch), -(-width // patch)
    found = Predictions(np.zeros((len(masks), 4)), np.asarray(scores, dtype=float), np.asarray(masks, bool).reshape(-1, height, width))
    return Picture(0, np.zeros((height, width, 3), np.uint8), torch.ones(2, H, W, dtype=torch.bool), patch, found)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_foreground_is_the_covered_share_of_each_cell(height, width, patch, count, random):
    masks = np.array([random.random() < 0.5 for _ in range(count * height * width)], bool).reshape(count, height, width)
    scores = [random.choice((0.2, 0.5, 0.9)) for _ in range(count)]
    found = picture(height, width, patch, masks, scores).foreground(score=0.5, cover=0.5)
    union = np.zeros((height, width), bool)
    for mask, score in zip(masks, scores, strict=True):
        union |= mask & (score >= 0.5)
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            cell = union[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            assert bool(found[y, x]) == (cell.sum() >= 0.5 * cell.size)


def test_cells_of_padding_are_left_out():
    blocks = torch.zeros(2, 4 * 6, dtype=torch.bool)
    blocks[1, 6 + 2] = True  # row 1, column 2 of 4 x 6 cells
    used = cropped(Used(blocks, (4, 6)), 8, 17, 24)  # 17 pixels reach into the third row of cells, 24 fill three columns
    assert used.shape == (2, 3, 3) and used[1].nonzero().tolist() == [[1, 2]]
