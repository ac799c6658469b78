"""The settings of a classification run."""

import pytest

from tokenprune.errors import InvalidConfig
from tokenprune.tasks.classification.settings import Augmentation, ClassificationConfig, Mixing, View, read_recipe


def read(batch=8, data="imagefolder", **task):
    return read_recipe({"task": {"name": "classification", **task}, "training": {"batch_size": batch}, "data": {"name": data}})


def test_nothing_is_set_by_itself_and_parts_come_with_deits_values():
    plain = read(data="shapes")
    assert plain == ClassificationConfig() and plain.view is plain.augment is plain.mix is None
    assert read() == ClassificationConfig(view=View()), "photographs have a view"
    assert read(augment={}, mix={}, view={}) == ClassificationConfig(view=View(), augment=Augmentation(), mix=Mixing())
    assert (Augmentation().policy, Augmentation().erase) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (Mixing().mixup, Mixing().cutmix, Mixing().smoothing) == (0.8, 1.0, 0.1)


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("view", {"crop_pct": 0.0}, "crop_pct is 0.0, allowed are 0 < crop_pct <= 1"),
        ("view", {"crop_pct": 1.5}, "crop_pct is 1.5"),
        ("view", {"interpolation": "cubic"}, "allowed are nearest, bilinear, bicubic"),
        ("view", {"std": [0.5, 0.0, 0.5]}, r"std is \(0.5, 0.0, 0.5\), allowed are values above 0"),
        ("view", {"mean": [123, 116, 103]}, "allowed is the 0..1 scale: divide by 255"),
        ("view", {"size": 256}, "task.view.size is not a setting"),
        ("augment", {"area": [0.5, 0.1]}, "task.augment.area is .* allowed are two values 0 < a <= b <= 1"),
        ("augment", {"area": [0.5, 2.0]}, "task.augment.area"),
        ("augment", {"ratio": [0.0, 2.0]}, "task.augment.ratio"),
        ("augment", {"flip": 2.0}, "task.augment.flip is 2.0, allowed are 0 to 1"),
        ("augment", {"erase": -0.1}, "task.augment.erase"),
        ("augment", {"color_jitter": -1}, "color_jitter is -1.0, allowed are 0 and more"),
        ("augment", {"repeats": 0}, "repeats is 0, allowed are 1"),
        ("augment", {"policy": "random"}, "policy is 'random', which timm cannot read .*rand-m9-mstd0.5-inc1"),
        ("mix", {"mixup": -1}, "task.mix.mixup is -1.0, allowed are 0 and more"),
        ("mix", {"smoothing": 2}, "task.mix.smoothing is 2.0, allowed are 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_named(part, values, words):
    with pytest.raises(InvalidConfig, match=words) as error:
        read(**{part: values})
    assert len(error.value.problems) == 1


def test_what_does_not_go_together():
    with pytest.raises(InvalidConfig, match="training.batch_size is 9, and task.mix pairs .* give a multiple of 2"):
        read(batch=9, mix={})
    with pytest.raises(InvalidConfig, match=r"task.token_labels is 1.0 together with augment, mix; allowed is 0"):
        read(data="shapes", token_labels=1.0, augment={}, mix={})
    with pytest.raises(InvalidConfig, match="data=imagefolder, which has no class maps"):
        read(token_labels=1.0)
    assert read(data="shapes", token_labels=1.0).token_labels == 1.0


def test_every_problem_at_once():
    with pytest.raises(InvalidConfig) as error:
        read(batch=3, view={"crop_pct": 2.0}, augment={"flip": 3.0, "policy": "?"}, mix={"prob": 7.0})
    assert len(error.value.problems) == 5
