"""Frames, groups and paths against loops."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.shown import DEPTH, PATCH, entry
from tokenprune.report.show import svg
from tokenprune.report.show.shown import frames, hue
from tokenprune.tasks.pictures import Picture

MASKS = st.integers(1, 5).flatmap(
    lambda h: st.integers(1, 6).flatmap(lambda w: st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=h, max_size=h))
)


def test_blocks_with_the_same_tokens_share_a_frame():
    assert [(f.first, f.last) for f in frames(entry("dense").picture)] == [(0, DEPTH - 1)]
    dropped = list(frames(entry("drop").picture))
    assert [(f.first, f.last, f.tokens) for f in dropped] == [(0, 1, 12), (2, 3, 6), (4, 4, 5)]
    assert [f.blocks for f in dropped] == ["blocks 0 to 1", "blocks 2 to 3", "block 4"]
    assert dropped[1].counts == "6 of 12 tokens" and not dropped[1].groups
    assert torch.equal(dropped[1].gone.flatten(), torch.arange(12) >= 6)


def test_merged_patches_are_groups_and_not_gone():
    *_, last = frames(entry("merge").picture)
    assert set(last.groups) == {0, 5} and not last.gone.any()
    assert last.groups[0].flatten().nonzero().flatten().tolist() == [0, 1, 2, 11]
    assert last.groups[5].flatten().nonzero().flatten().tolist() == [5, 6]
    assert last.counts == "8 of 12 tokens, 2 of them merged"


def test_tokens_without_a_place_are_said():
    picture = entry("drop").picture
    fused = Picture(0, picture.pixels, picture.used, PATCH, owners=picture.owners, tokens=(12, 12, 7, 7, 6))
    assert [f.counts for f in frames(fused)][1] == "6 of 12 tokens, and 1 without a place in the picture"


def test_a_picture_without_owners_is_refused():
    picture = entry("drop").picture
    with pytest.raises(ValueError, match="owners=True"):
        list(frames(Picture(0, picture.pixels, picture.used, PATCH)))


def test_neighbouring_groups_have_hues_apart():
    hues = [hue(label) for label in range(20)]
    assert all(0 <= one <= 360 for one in hues)
    assert all(30 < abs(a - b) < 330 for a, b in zip(hues, hues[1:], strict=False))


@given(MASKS, st.integers(1, 16))
@settings(deadline=None, max_examples=60)
def test_a_path_of_cells_covers_exactly_these_cells(mask, patch):
    wanted = torch.tensor(mask)
    found = torch.zeros_like(wanted)
    path = svg.cells(wanted, patch)
    number = r"(-?\d+)"
    pieces = re.findall(rf"M{number} {number}h{number}v{number}h-{number}z", path)
    assert re.sub(rf"M{number} {number}h{number}v{number}h-{number}z", "", path) == ""
    for x, y, width, height, back in (tuple(map(int, piece)) for piece in pieces):
        assert height == patch and width == back and x % patch == y % patch == width % patch == 0
        cells = found[y // patch, x // patch : (x + width) // patch]
        assert not cells.any()  # none is painted twice
        cells[:] = True
    assert torch.equal(found, wanted)


@given(MASKS)
@settings(deadline=None, max_examples=60)
def test_a_border_has_a_line_on_each_side_without_a_neighbour(mask):
    wanted = torch.tensor(mask)
    padded = np.pad(wanted.numpy(), 1)
    sides = sum(int((padded & ~np.roll(padded, shift, axis)).sum()) for axis in (0, 1) for shift in (-1, 1))
    lines = list(svg.border(wanted, 10, 1.0))
    assert len(lines) == sides
    for x1, y1, x2, y2 in lines:
        column, row = int((x1 + x2) / 2 // 10), int((y1 + y2) / 2 // 10)
        assert wanted[row, column]  # the line lies inside of a cell that belongs to the group
        assert (x1 == x2) != (y1 == y2)


def test_an_outline_keeps_its_distance_from_the_neighbour():
    mask = torch.tensor([[True, True], [False, False]])
    assert svg.outline(mask, 10, 1.0) == "M1 1L10 1M1 9L10 9M1 1L1 9M10 1L19 1M10 9L19 9M19 1L19 9"
