"""The conventions of a detector's evaluation: mmdetection's beside Detectron2's, drawn gates, half precision, the note in the row."""

import math

import numpy as np
import pytest
import torch

from tests.tasks.detection.conftest import SVIT
from tokenprune.data.base import Sample, boxes_of, make_instances
from tokenprune.data.opencv import resize as opencv
from tokenprune.errors import InvalidConfig
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.detection.conventions import CHOICES, drawing, notes_of
from tokenprune.tasks.detection.settings import read_task

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
from detectron2.modeling.box_regression import Box2BoxTransform  # noqa: E402

from tokenprune.tasks.detection import loader  # noqa: E402
from tokenprune.tasks.detection.released import ORIGINAL, BothSides, factors_of  # noqa: E402

FLOAT = {"dtype": "float32"}


def built(cfg):
    torch.manual_seed(0)
    task = get("task", "detection")()
    return task, task.build_model(cfg).eval()


def busy(model):
    """Let every proposal be an object, so that there are results."""
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] += 5
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(30)
    return model


def picture(height=40, width=60):
    rng = np.random.default_rng(0)
    masks = np.zeros((1, height, width), bool)
    masks[0, 5:17, 8:30] = True
    return Sample(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), 3, make_instances(boxes_of(masks), masks, [0], [False]))


def test_one_setting_turns_all_of_them_and_each_can_be_set_alone():
    own, released = read_task({}).conventions, read_task({"evaluation": "released"}).conventions
    assert all(getattr(own, name) == allowed[0] and getattr(released, name) == allowed[1] for name, allowed in CHOICES.items())
    assert (own.draws, released.draws) == (1, 3)
    mixed = read_task({"evaluation": "released", "view": {"nms": "input", "draws": 5}}).conventions
    assert (mixed.nms, mixed.draws, mixed.resize) == ("input", 5, "opencv")


def test_wrong_conventions_are_named_together():
    with pytest.raises(InvalidConfig) as error:
        read_task({"view": {"resize": "nearest", "clamp": "below", "draws": 0}})
    text = str(error.value)
    assert "task.view.resize is 'nearest', allowed are pillow, opencv" in text
    assert "task.view.clamp is 'below'" in text and "task.view.draws is 0" in text
    with pytest.raises(InvalidConfig, match="task.evaluation is 'theirs', allowed are own, released"):
        read_task({"evaluation": "theirs"})
    with pytest.raises(InvalidConfig, match="task.view.nms is 'original' .* Set task.view.nms=input"):
        read_task({"evaluation": "released", "detector": "cascade"})


def test_the_note_names_every_difference_and_only_these():
    assert notes_of(read_task({}).conventions, draws=False) == ()
    (note,) = notes_of(read_task({"evaluation": "released"}).conventions, draws=True)
    assert "drawn" not in notes_of(read_task({"evaluation": "released"}).conventions, draws=False)[0]
    for words in (
        "OpenCV",
        "one factor",
        "both sides",
        "sigmoid",
        "NMS on boxes in pixels of the original",
        "drawn 3 times",
        "float16 on a GPU",
    ):
        assert words in note
    (note,) = notes_of(read_task({"view": {"resize": "opencv"}}).conventions, draws=False)
    assert note == "evaluation: pictures resized as OpenCV does"


def test_test_pictures_are_resized_by_opencv_and_from_one_factor():
    sample = picture(34, 76)
    own = loader.test_input(sample, loader.Resize(80, 133))["image"]
    factor = loader.test_input(sample, loader.Resize(80, 133, sizes="one_factor"))["image"]
    assert own.shape == (3, 59, 133) and factor.shape == (3, 60, 133)  # 34 * 1.75 = 59.5, which two steps round down
    theirs = loader.test_input(sample, loader.Resize(80, 133, "opencv", "one_factor"))["image"]
    assert np.array_equal(theirs.permute(1, 2, 0).numpy(), opencv(sample.image, 60, 133)) and not torch.equal(theirs, factor)
    known = loader.resized(sample, loader.Resize(80, 133, "opencv", "one_factor"))
    across, down = 133 / 76, 60 / 34
    assert known.masks.shape == (1, 60, 133) and np.allclose(known.boxes, [[8 * across, 5 * down, 30 * across, 17 * down]], atol=1e-3)


def test_training_pictures_do_not_depend_on_the_conventions(config, monkeypatch):
    cfg, given = config(), []
    monkeypatch.setattr(loader, "train_batches", lambda *arguments: given.append(arguments[5]))
    monkeypatch.setattr("tokenprune.tasks.detection.task._resize", lambda cfg: loader.Resize(48, 64, "opencv", "one_factor"))
    get("task", "detection")().train_batches({**cfg, "task": {**cfg["task"], "evaluation": "released"}}, 0)
    assert given == [loader.Resize(48, 64)]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_shrinking_is_clamped_as_growing_is(weights):
    boxes = torch.tensor([[0.0, 0.0, 100.0, 50.0]])
    deltas = torch.tensor([[0.0, 0.0, -99.0, 99.0, 0.5, 0.0, -1.0, 2.0]])
    both, above = BothSides(weights=weights).apply_deltas(deltas, boxes), Box2BoxTransform(weights=weights).apply_deltas(deltas, boxes)
    limit = 1000 / 16
    assert torch.allclose(both[0, 2] - both[0, 0], torch.tensor(100 / limit), rtol=1e-4)
    assert torch.allclose(both[0, 3] - both[0, 1], torch.tensor(50 * limit), rtol=1e-4)
    assert above[0, 2] - above[0, 0] < 1e-3 and torch.equal(both[:, 4:], above[:, 4:])
    assert math.isclose(BothSides(weights=weights).scale_clamp, math.log(limit))


def test_nms_in_original_pixels_finds_the_same_boxes_unclipped(config):
    cfg = config(task={"heads": {**config()["task"]["heads"], "score": 0.0}})
    _, own = built(cfg)
    _, theirs = built({**cfg, "task": {**cfg["task"], "view": {"nms": "original"}}})
    theirs.load_state_dict(busy(own).state_dict())
    record = {"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "height": 130, "width": 96}
    with torch.no_grad():
        first, second = (model([record])[0]["instances"] for model in (own, theirs))
        raw = theirs.inference([record], do_postprocess=False)[0]
    assert len(second) and len(second) >= len(first) and second.image_size == (130, 96)
    assert torch.allclose(raw.get(ORIGINAL).tensor * factors_of([record])[0], raw.pred_boxes.tensor)
    assert torch.allclose(factors_of([record])[0], torch.tensor([64 / 96, 64 / 130, 64 / 96, 64 / 130]))
    nonempty = second[second.pred_boxes.nonempty()]
    assert torch.allclose(nonempty.pred_boxes.tensor, first.pred_boxes.tensor, atol=1e-3)
    assert torch.equal(nonempty.pred_classes, first.pred_classes) and torch.allclose(nonempty.scores, first.scores)
    assert second.pred_masks.shape == (len(second), 130, 96)
    assert (nonempty.pred_masks != first.pred_masks).float().mean() < 1e-3


def test_proposals_are_sorted_by_probability(config):
    _, own = built(config())
    _, theirs = built(config(task={**config()["task"], "view": {"rpn_scores": "sigmoid"}}))
    theirs.load_state_dict(own.state_dict())
    images = own.preprocess_image([{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}])
    with torch.no_grad():
        features = own.backbone(images.tensor)
        (first,), (second,) = (model.proposal_generator(images, features)[0] for model in (own, theirs))
    assert torch.allclose(first.objectness_logits.sigmoid(), second.objectness_logits)
    assert torch.equal(first.proposal_boxes.tensor, second.proposal_boxes.tensor)


def test_gates_are_drawn_several_times_and_the_row_says_so(config):
    changes = {**SVIT, "task": {**config()["task"], "evaluation": "released", "view": {**FLOAT, "draws": 2}}}
    task, model = built(config(**changes))
    selectors = list(model.pruned.selectors.values())
    assert all(s.eval_mode == "sample" and s.calibration_images == 0 and s.draws for s in selectors)
    kept = []
    with torch.no_grad():
        for number in (0, 1, 0):
            for selector in selectors:
                selector.redraw(number)
            kept.append([u.attended for u in model.backbone.dense.encode(torch.ones(1, 3, 64, 64).cumsum(-1)).usage])
    assert str(kept[0]) == str(kept[2]) != str(kept[1])
    metrics = task.evaluate(model, config(**changes))
    assert {"ap_box_spread", "ap_mask_spread"} <= set(metrics) and all(s.number == 0 for s in selectors)
    assert any("gates drawn 2 times" in note for note in model.notes)


def test_a_draw_is_another_one_for_another_number_and_the_own_seed_for_0(config):
    _, model = built(config(**{**SVIT, "selector": {"name": "svit", "eval_mode": "sample", "seed": 7}}))
    _, other = built(config(**{**SVIT, "selector": {"name": "svit", "eval_mode": "sample", "seed": 6}}))
    other.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first = model.backbone.dense(image)
        assert not torch.equal(first, other.backbone.dense(image))
        for selector in other.pruned.selectors.values():
            selector.redraw(1)
        assert torch.equal(first, other.backbone.dense(image))


def test_a_resolved_run_draws_too_and_selectors_without_gates_stay():
    released = read_task({"evaluation": "released"}).conventions
    assert drawing({"selector": {"name": "svit"}}, released)["selector"] == {"name": "svit", "eval_mode": "sample"}
    assert drawing({"selector": "svit"}, read_task({}).conventions)["selector"] == "svit"
    full = resolve(compose(["task=detection", "method=svit", "scale=smoke", "task.evaluation=released"]))  # with every default in it
    assert full["selector"]["eval_mode"] == "threshold" and drawing(full, released)["selector"]["eval_mode"] == "sample"
    kept = read_task({"evaluation": "released", "view": {"gates": "method"}}).conventions
    assert drawing(full, kept)["selector"] == full["selector"]
    assert drawing({"selector": {"name": "evit"}}, released)["selector"] == {"name": "evit"}
    assert drawing({"selector": {"name": "none"}}, released)["selector"] == {"name": "none"}


def test_half_precision_is_an_option_that_reads_the_pyramid_in_single_precision(config):
    adapter = {"backbone": {"adapter": {"conv_dim": 8, "heads": 2}}}
    task = {"pyramid": {"scales": [4, 2, 1, 0.5], "channels": 16, "top_level": True}, "view": {"dtype": "bfloat16", "nms": "original"}}
    _, model = built(config(task={**config()["task"], **task}, **adapter))
    record = {"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}
    seen = {}
    model.roi_heads.box_predictor.cls_score.register_forward_hook(lambda _, __, out: seen.update(classes=out.dtype))
    model.backbone.dense.injectors[0].attention.output.register_forward_hook(lambda _, given, __: seen.update(read=given[0].dtype))
    with torch.no_grad(), model.precision():
        found = model([record])[0]["instances"]
    assert seen == {"classes": torch.bfloat16, "read": torch.float32} and found.scores.dtype == torch.float32
    _, plain = built(config(task={**config()["task"], "view": {"dtype": "half"}}))
    with plain.precision():
        assert not torch.is_autocast_enabled("cpu")  # half is float32 on a CPU
