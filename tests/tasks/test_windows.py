"""Sliding windows of the segmenter: places, overlaps, sizes, and the whole against a pixel by pixel mean."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tokenprune
from tests.helpers.pairings import tiny_vit
from tokenprune.data import opencv
from tokenprune.errors import Diverged, InvalidConfig
from tokenprune.tasks.segmentation.model import Segmenter
from tokenprune.tasks.segmentation.settings import read_segmentation
from tokenprune.tasks.segmentation.views import view_of
from tokenprune.tasks.segmentation.windows import averaged, labelled, prepared, starts

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CPU = torch.device("cpu")


class Places(nn.Module):
    """Returns the pixels that it sees, and one class whose logit is the place inside of the window."""

    def forward(self, windows):
        place = torch.arange(float(windows.shape[-1])).expand_as(windows[:, :1])
        return torch.cat([windows, place], 1)


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return view_of(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), rng.integers(0, 3, (height, width)))


@pytest.mark.parametrize(
    ("length", "places"),
    [(512, [0]), (513, [0, 1]), (683, [0, 171]), (992, [0, 480]), (1000, [0, 480, 488]), (2048, [0, 480, 960, 1440, 1536])],
)
def test_windows_of_512_stand_480_apart_and_the_last_at_the_edge(length, places):
    assert starts(length, 512) == places


def test_every_pixel_has_the_mean_of_the_windows_that_cover_it():
    image = torch.rand(1, 3, 64, 150)
    found = averaged(Places(), image, 64, 2)
    torch.testing.assert_close(found[:3], image[0])
    lefts = starts(150, 64)
    assert lefts == [0, 32, 64, 86]
    means = [np.mean([x - left for left in lefts if left <= x < left + 64]) for x in range(150)]
    torch.testing.assert_close(found[3], torch.tensor(means, dtype=torch.float32).expand(64, 150))


@pytest.mark.parametrize(
    ("size", "seen"),
    [((300, 400), (512, 683)), ((400, 300), (683, 512)), ((1024, 2048), (512, 1024)), ((100, 1000), (512, 5115)), ((512, 600), (512, 600))],
)
def test_the_shorter_side_becomes_that_of_a_window(size, seen):
    """A picture that is more than four times as long as it is high is first made 2048 long, then enlarged."""
    assert prepared(picture(*size), 512, PLAIN).shape[-2:] == seen


def test_pictures_are_resized_as_opencv_does_and_normalised_by_rounded_statistics():
    view, mean, std = picture(90, 70), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    small = opencv.resize(view.image.permute(1, 2, 0).numpy(), 82, 64)  # tests/data/test_opencv.py holds it to OpenCV's arithmetic
    wanted = (small.astype(np.float64) - np.round(mean, 2)) / np.round(std, 2)
    np.testing.assert_allclose(prepared(view, 64, (mean, std))[0].permute(1, 2, 0).numpy(), wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("selector", [None, "random", "evit"])
def test_a_picture_of_one_window_is_seen_as_a_whole(selector):
    plan = ("preserve", {"name": "per_block", "remove": 9, "start": 1}) if selector else (None, None)
    model = Segmenter(tokenprune.prune(tiny_vit(num_classes=3), selector, *plan)).eval()
    view = picture(32, 32)
    assert torch.equal(labelled(model, view, 32, PLAIN, 4, CPU), model(prepared(view, 32, PLAIN))[0].argmax(0))


@torch.no_grad()
def test_labels_are_those_of_logits_at_the_pictures_own_size():
    """Logits are enlarged, not shares of classes; batches of windows do not matter."""
    model, view = Segmenter(tokenprune.prune(tiny_vit(num_classes=3))).eval(), picture(40, 70)
    logits = averaged(model, prepared(view, 32, PLAIN), 32, 8)
    assert logits.shape == (3, 32, 56)
    wanted = F.interpolate(logits[None], (40, 70), mode="bilinear")[0].argmax(0)
    for batch in (1, 3, 64):
        assert (labelled(model, view, 32, PLAIN, batch, CPU) == wanted).float().mean() > 0.999


def test_logits_that_are_no_numbers_are_refused():
    model = Segmenter(tokenprune.prune(tiny_vit(num_classes=3))).eval()
    model.pruned.backbone.head.bias.data.fill_(float("nan"))
    with pytest.raises(Diverged):
        labelled(model, picture(40, 70), 32, PLAIN, 2, CPU)


def test_an_unknown_evaluation_names_the_known_ones():
    with pytest.raises(InvalidConfig, match="task.evaluation is 'slide', allowed are one_shot, released"):
        read_segmentation({"task": {"name": "segmentation", "evaluation": "slide"}, "data": {"name": "shapes"}, "backbone": {}})
