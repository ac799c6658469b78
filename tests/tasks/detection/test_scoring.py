"""Soft-NMS against a loop over boxes, sure masks by hand, and both in a detector's results and notes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import InvalidConfig
from tokenprune.tasks.detection.settings import read_task

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
scoring = pytest.importorskip("tokenprune.tasks.detection.scoring")


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def looped(boxes, scores, classes, iou, least, most):
    """Class by class, one box after the other, then the best of all: plain Python."""
    found = []
    for label in set(classes):
        left = {i: scores[i] for i in range(len(boxes)) if classes[i] == label}
        while left:
            best = max(left, key=left.get)
            value = left.pop(best)
            if value <= least:
                break
            found.append((value, best))
            for i in left:
                shared = overlap(boxes[best], boxes[i])
                left[i] *= 1 - shared if shared > iou else 1.0
    return sorted(found, reverse=True)[:most]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 25), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.0, 0.2]), st.integers(1, 30),
       st.integers(0, 10_000))  # fmt: skip
def test_soft_nms_is_the_loop(count, labels, iou, least, most, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20], 1)
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    classes = torch.randint(labels, (count,), generator=generator)
    kept, values = scoring.soft_nms(boxes, scores, classes, iou, least, most)
    expected = looped(boxes.tolist(), scores.tolist(), classes.tolist(), iou, least, most)
    assert kept.tolist() == [i for _, i in expected]
    assert values.tolist() == pytest.approx([value for value, _ in expected])


def test_maskness_is_the_mean_of_what_is_sure():
    masks = torch.tensor([[[0.9, 0.7], [0.5, 0.1]], [[0.2, 0.2], [0.2, 0.2]]]).unsqueeze(1)
    assert scoring.maskness(masks).tolist() == pytest.approx([0.8, 0.0])
    assert scoring.maskness(masks[:0]).shape == (0,)


def detected(config, heads, detector):
    from tokenprune.registry import get

    cfg = config(task={"detector": detector})
    cfg["task"]["heads"].update(heads)
    torch.manual_seed(0)
    model = get("task", "detection")().build_model(cfg).eval()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (output,) = model([{"image": image, "height": 64, "width": 64}])
    return model, output["instances"]


@pytest.mark.parametrize("detector", ["mask", "cascade"])
def test_a_detector_scores_as_it_is_set(config, detector):
    plain, hard = detected(config, {"score": 0.0, "nms": 1.0, "detections": 200}, detector)
    soft_model, soft = detected(config, {"score": 0.0, "soft_nms": 0.6, "detections": 6}, detector)
    expected = looped(*(t.double().tolist() for t in (hard.pred_boxes.tensor, hard.scores)), hard.pred_classes.tolist(), 0.6, 0.0, 6)
    assert soft.scores.tolist() == pytest.approx([value for value, _ in expected], rel=1e-3) and len(soft) == 6
    assert plain.notes == () and soft_model.notes == ("linear soft-NMS from an IoU of 0.6, score threshold 0",)
    model, sure = detected(config, {"score": 0.0, "nms": 1.0, "detections": 200, "mask_scoring": True}, detector)
    assert model.notes == ("scores times the mean foreground probability of masks",)
    share = sure.scores / hard.scores
    assert torch.equal(sure.pred_boxes.tensor, hard.pred_boxes.tensor) and (share <= 1).all() and (share < 0.999).any()


def test_settings_that_do_not_fit():
    with pytest.raises(InvalidConfig, match="soft_nms is 1.5, allowed are null and an IoU"):
        read_task({"heads": {"soft_nms": 1.5}})
    with pytest.raises(InvalidConfig, match="policy is 'lsj', which needs the square"):
        read_task({"augment": {"policy": "lsj"}})
    with pytest.raises(InvalidConfig, match=r"scale_range is \(2.0, 1.0\)"):
        read_task({"augment": {"scale_range": [2, 1]}})
