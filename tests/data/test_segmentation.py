import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenprune.data.coco_masks import area_of, decode_counts, segmentation_problem, to_mask

rle_tools = pytest.importorskip("pycocotools.mask")
MASKS = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.booleans())


def runs_of(mask):
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))) if len(flat) else []
    return np.diff(np.concatenate([[0], edges, [len(flat)]])).astype(int).tolist()


@settings(max_examples=100, deadline=None)
@given(mask=MASKS, repeat=st.integers(1, 9))
def test_compressed_and_plain_runs_decode_to_the_mask(mask, repeat):
    mask = np.kron(mask, np.ones((repeat, repeat), dtype=bool))
    height, width = mask.shape
    counts = rle_tools.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    assert decode_counts(counts).tolist() == runs_of(mask)
    for form in (counts, runs_of(mask)):
        value = {"size": [height, width], "counts": form}
        assert segmentation_problem(value, height, width) is None
        assert np.array_equal(to_mask(value, height, width), mask) and area_of(value, height, width) == mask.sum()


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=12))
def test_arbitrary_text_is_refused_or_decodes_within_the_image(text):
    value = {"size": [6, 7], "counts": text}
    if segmentation_problem(value, 6, 7) is None:
        assert to_mask(value, 6, 7).shape == (6, 7) and decode_counts(text).sum() == 42


def test_several_polygons_are_one_mask():
    value = [[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 10, 6, 10, 10, 6, 10]]
    mask = to_mask(value, 12, 12)
    assert mask.shape == (12, 12) and mask[:4, :4].all() and mask[6:10, 6:10].all() and mask.sum() == 32
