"""Samples as Detectron2 inputs: geometry, determinism, both augmentation policies."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from tokenprune.data.base import Sample, boxes_of, make_instances
from tokenprune.data.shapes.shapes import ShapesDetection
from tokenprune.tasks.detection.settings import AugmentConfig

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
loader = pytest.importorskip("tokenprune.tasks.detection.loader")

DETR = AugmentConfig(policy="detr", sides=(64, 80), crop_sides=(90,), crop_range=(40, 70), long_side=200)

LSJ = AugmentConfig(policy="lsj", final_crop=48, scale_range=(0.5, 2.0))


def shapes():
    return ShapesDetection(8, 96, 0, "train")


def marked(height=40, width=60):
    """A picture whose red channel is its object's mask, so that image, mask and box can be checked against each other."""
    masks = np.zeros((2, height, width), bool)
    masks[0, 5:17, 8:30] = True
    masks[1, 20:36, 40:55] = True
    image = np.zeros((height, width, 3), np.uint8)
    image[masks[0]] = 200
    image[masks[1]] = 90
    return Sample(image, 3, make_instances(boxes_of(masks), masks, [4, 2], [False, False]))


def assert_consistent(record, margin):
    gt, image = record["instances"], record["image"].float()
    masks = gt.gt_masks.tensor
    assert masks.shape[1:] == image.shape[1:] == (record["height"], record["width"]) == gt.image_size
    for mask, box, value in zip(masks, gt.gt_boxes.tensor, gt.gt_classes, strict=True):
        inside = -torch.nn.functional.max_pool2d(-mask.float()[None], 2 * margin + 1, 1, margin)[0] > 0  # away from blurred edges
        if inside.any():
            assert (image[:, inside].mean() - {4: 200, 2: 90}[int(value)]).abs() < 2
        tight = boxes_of(mask.numpy()[None])[0]
        assert np.abs(tight - box.numpy()).max() <= (1.01 if margin else 0)


@pytest.mark.parametrize("place", range(24))
def test_light_augmentation_moves_image_mask_and_box_together(place):
    assert_consistent(loader.train_input(marked(), AugmentConfig(), loader.Resize(), (0, place)), 0)


@pytest.mark.parametrize("place", range(24))
def test_detr_augmentation_moves_image_mask_and_box_together(place):
    record = loader.train_input(marked(), DETR, loader.Resize(), (0, place))
    assert min(record["height"], record["width"]) in (64, 80) or max(record["height"], record["width"]) == 200
    assert_consistent(record, 6)


@pytest.mark.parametrize("place", range(24))
def test_large_scale_jitter_moves_image_mask_and_box_together(place):
    """A picture of 40 x 60 fits a square of 48 times 0.5 to 2: 24 to 96 px wide, cropped to 48; boxes are those of the cropped masks."""
    record = loader.train_input(marked(), LSJ, loader.Resize(), (0, place))
    height, width = record["height"], record["width"]
    assert 24 <= width <= 48 and 16 <= height <= 48 and (width == 48 or abs(width / height - 1.5) < 0.1)
    assert_consistent(record, 4)


def test_large_scale_jitter_draws_its_scale_and_loses_objects():
    records = [loader.train_input(marked(), LSJ, loader.Resize(), (0, place)) for place in range(60)]
    widths, counts = [r["width"] for r in records], {len(r["instances"]) for r in records}
    assert min(widths) < 30 and sum(width == 48 for width in widths) in range(25, 55) and {1, 2} <= counts
    fixed = [loader.train_input(marked(), replace(LSJ, scale_range=(1.0, 1.0), flip=False), loader.Resize(), (0, p)) for p in (1, 2)]
    assert torch.equal(fixed[0]["image"], fixed[1]["image"]) and fixed[0]["image"].shape == (3, 32, 48)


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("policy", ["light", "detr"])
def test_the_last_crop_holds_image_mask_and_box_together(policy, place):
    augment = replace(DETR, policy=policy, final_crop=35)
    record = loader.train_input(marked(), augment, loader.Resize(), (0, place))
    assert max(record["height"], record["width"]) == 35
    assert_consistent(record, 0 if policy == "light" else 6)


def test_the_last_crop_may_leave_no_object_and_leaves_small_pictures_alone():
    small = [loader.train_input(marked(), replace(AugmentConfig(), final_crop=crop), loader.Resize(), (0, 3)) for crop in (None, 60)]
    assert torch.equal(small[0]["image"], small[1]["image"])
    assert torch.equal(small[0]["instances"].gt_boxes.tensor, small[1]["instances"].gt_boxes.tensor)
    augment, counts = replace(AugmentConfig(), final_crop=6), set()
    for place in range(30):
        record = loader.train_input(marked(), augment, loader.Resize(), (0, place))
        assert record["image"].shape == (3, 6, 6) and record["instances"].gt_masks.tensor.shape[1:] == (6, 6)
        counts.add(len(record["instances"]))
    assert {0, 1} <= counts


def test_all_light_views_occur_and_pixels_only_move():
    sample, seen = shapes()[0], set()
    for place in range(120):
        image = loader.train_input(sample, AugmentConfig(), loader.Resize(), (0, place))["image"]
        assert int(image.sum()) == int(sample.image.astype(int).sum())
        seen.add(image.numpy().tobytes())
    assert len(seen) >= 40  # 8 symmetries of the square x 6 channel orders


def test_batches_depend_on_seed_and_iteration_alone():
    def take(seed, start, count, policy=AugmentConfig()):  # noqa: B008
        np.random.rand(int(np.random.rand() * 9))  # the global generator is elsewhere each time
        return list(islice(loader.train_batches(shapes(), 3, seed, start, policy, loader.Resize()), count))

    def same(a, b):
        return all(
            torch.equal(x["image"], y["image"]) and torch.equal(x["instances"].gt_boxes.tensor, y["instances"].gt_boxes.tensor)
            for x, y in zip(a, b, strict=True)
        )

    for policy in (AugmentConfig(), DETR):
        whole = take(0, 0, 6, policy)
        assert all(same(a, b) for a, b in zip(take(0, 4, 2, policy), whole[4:], strict=True))
        assert not all(same(a, b) for a, b in zip(take(1, 0, 2), take(0, 0, 2), strict=True))


def test_the_global_generator_is_put_back():
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    loader.train_input(shapes()[0], DETR, loader.Resize(), (0, 0))
    assert np.array_equal(np.random.rand(3), expected)


def test_crowds_are_not_trained_on_and_empty_pictures_stay():
    sample = marked()
    crowd = Sample(sample.image, 3, make_instances(sample.instances.boxes, sample.instances.masks, [4, 2], [True, True]))
    for policy in (AugmentConfig(), DETR):
        record = loader.train_input(crowd, policy, loader.Resize(), (0, 1))
        gt = record["instances"]
        assert len(gt) == 0 and gt.gt_masks.tensor.shape == (0, record["height"], record["width"]) and gt.gt_boxes.tensor.shape == (0, 4)


def test_test_inputs_are_resized_and_remember_the_original_size():
    record = loader.test_input(marked(40, 60), loader.Resize(80, 100))
    assert record["image"].shape == (3, 67, 100) and (record["height"], record["width"]) == (40, 60) and "instances" not in record
    assert loader.test_input(marked(40, 60), loader.Resize())["image"].shape == (3, 40, 60)
