"""The detectors: losses, gradients, shapes, backbone losses, both architectures."""

import pytest
import torch

from tokenprune.errors import InvalidConfig
from tokenprune.registry import get
from tokenprune.tasks.detection.settings import read_task

BASIC = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}


def first_batch(cfg):
    task = get("task", "detection")()
    torch.manual_seed(0)
    return task, task.build_model(cfg).train(), next(task.train_batches(cfg, 0))


def test_mask_rcnn_losses_and_gradients(config):
    task, model, batch = first_batch(config())
    losses = task.losses(model, batch)
    assert set(losses) == BASIC and all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without
    silent = [n for n, p in model.backbone.named_parameters() if not p.grad.abs().sum() > 0]
    assert not silent or all("cls_token" in n for n in silent), silent


def test_gated_encoder_every_parameter_learns_and_its_loss_arrives(config, svit):
    task, model, batch = first_batch(config(**svit))
    losses = task.losses(model, batch)
    assert set(losses) == BASIC | {"loss_ratio"}
    sum(losses.values()).backward()
    selectors = {n: p.grad for n, p in model.named_parameters() if ".selectors." in n}
    assert selectors and all(g is not None and g.abs().sum() > 0 for g in selectors.values())
    backbone = [n for n, p in model.backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all("cls_token" in n for n in backbone), backbone


def test_the_ratio_loss_alone_reaches_the_gates_but_not_the_heads(config, svit):
    task, model, batch = first_batch(config(**svit))
    task.losses(model, batch)["loss_ratio"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if ".selectors." in n)
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith(("roi_heads.", "proposal_generator.")))


def test_cascade_trains_a_step_and_infers(config):
    task, model, batch = first_batch(config(task={"detector": "cascade"}))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = task.losses(model, batch)
    assert {f"loss_cls_stage{i}" for i in range(3)} <= set(losses)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.no_grad():
        (output,) = model.eval()([{"image": batch[0]["image"], "height": 100, "width": 90}])
    assert output["instances"].image_size == (100, 90) and output["instances"].pred_masks.shape[1:] == (100, 90)


def test_images_of_different_sizes_share_a_batch(config):
    _, model, _ = first_batch(config())
    images = [torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for h, w in ((61, 47), (40, 90))]
    with torch.no_grad():
        outputs = model.eval()([{"image": x, "height": x.shape[1], "width": x.shape[2]} for x in images])
    assert [o["instances"].image_size for o in outputs] == [(61, 47), (40, 90)]
    assert model.pruned.patch_size == 8 and model.backbone.dense.last_outputs.grid == (8, 12)


def test_a_picture_without_objects_trains(config):
    task, model, batch = first_batch(config())
    batch[0]["instances"] = batch[0]["instances"][[]]
    losses = task.losses(model, [batch[0]])
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()


def test_the_paper_heads_have_the_papers_sizes(config):
    heads = {"anchor_sizes": [[32], [64], [128], [256], [512]], "anchor_ratios": [0.5, 1.0, 2.0], "anchor_offset": 0.0, "rpn_convs": 1,
             "box_fc": [1024, 1024], "mask_convs": 4, "mask_dim": 256, "agnostic_boxes": False, "agnostic_masks": False, "norm": "LN"}
    pyramid = {"scales": [4, 2, 1, 0.5], "channels": 256, "top_level": True}
    cfg = config(task={"heads": heads, "pyramid": pyramid}, backbone={"patch_size": 16})
    with torch.device("meta"):
        model = get("task", "detection")().build_model(cfg)
    assert model.backbone.size_divisibility == 32 and list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert model.proposal_generator.rpn_head.objectness_logits.out_channels == 3
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 4 * 8 and model.roi_heads.mask_head.predictor.out_channels == 8
    convolutions = [m for n, m in model.roi_heads.mask_head.named_children() if n.startswith("mask_fcn")]
    assert len(convolutions) == 4 and type(convolutions[0].norm).__name__ == "ChannelNorm"
    assert model.roi_heads.box_in_features == ["p2", "p3", "p4", "p5"]


def test_a_callers_event_storage_is_left_in_charge(config):
    from detectron2.utils.events import EventStorage

    task, model, batch = first_batch(config())
    with EventStorage(5) as storage:
        task.losses(model, batch)
    assert "roi_head/num_fg_samples" in storage.latest()


def test_settings_report_every_problem():
    task = {"detector": "masks", "heads": {"nmss": 1, "score": "low"}, "pyramid": {"scale": 2}, "augment": {"policy": "heavy"}}
    with pytest.raises(InvalidConfig) as error:
        read_task(task)
    text = str(error.value)
    assert "did you mean 'nms'" in text and "task.heads.score is 'low'" in text and "did you mean 'scales'" in text
    with pytest.raises(InvalidConfig, match="masks.*heavy.*3 entries for 1 pyramid level"):
        read_task({"detector": "masks", "augment": {"policy": "heavy"}, "heads": {"anchor_sizes": [[1], [2], [3]]}})
