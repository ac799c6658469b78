"""Pictures of any size without labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.data import build_detection
from tokenprune.errors import DatasetError

CONFIG = {"name": "unlabelled", "short_side": 40, "long_side": 66, "classes": 5, "train_size": 3, "val_size": 2, "seed": 0}


@given(st.integers(16, 60), st.integers(0, 30))
def test_pictures_have_the_size_that_was_asked_for_and_no_objects(short, more):
    data = build_detection({**CONFIG, "short_side": short, "long_side": short + more}, "val")
    sample = data[1]
    assert sample.image.shape == (short, short + more, 3) and sample.image.dtype == np.uint8 and sample.image.std() > 0
    assert len(sample.instances) == 0 and sample.instances.masks.shape == (0, short, short + more)


def test_pictures_differ_and_are_the_same_each_time():
    data, again = (build_detection(CONFIG, "val") for _ in range(2))
    assert np.array_equal(data[0].image, again[0].image) and not np.array_equal(data[0].image, data[1].image)
    assert np.array_equal(data[0].image, build_detection(CONFIG, "train")[0].image)  # what calibrates gates is what is timed


def test_it_looks_like_a_data_set_to_a_detector():
    data = build_detection(CONFIG, "train")
    assert len(data) == len(list(data)) == 3 and data.aspect_ratios() == [66 / 40] * 3
    assert len(data.classes) == len(data.category_ids) == 5


def test_there_is_nothing_to_judge_by():
    with pytest.raises(DatasetError, match=r"no labels to judge by; measure cost alone, measure=\[cost\]"):
        build_detection(CONFIG, "val").coco_json()


@pytest.mark.parametrize("change", [{"short_side": 0}, {"short_side": 70}, {"classes": 0}, {"val_size": 0}, {"seed": -1}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(DatasetError, match="unlabelled.*allowed: positive numbers"):
        build_detection({**CONFIG, **change}, "val")
