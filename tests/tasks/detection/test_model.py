"""The detectors: losses, gradients, shapes, backbone losses, both architectures."""

import pytest
import torch

from tests.helpers.adapters import awake
from tests.tasks.detection.conftest import SVIT
from tokenprune.errors import InvalidConfig
from tokenprune.measure.macs import encoder_cost, planned_macs
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.detection.settings import read_task
from tokenprune.tasks.encoder import build_pruned, positions

EVIT = {"selector": {"name": "evit"}, "treatment": {"name": "remove"}, "schedule": SVIT["schedule"]}
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
    heads = {
        "anchor_sizes": [[32], [64], [128], [256], [512]],
        "anchor_ratios": [0.5, 1.0, 2.0],
        "anchor_offset": 0.0,
        "rpn_convs": 1,
        "box_fc": [1024, 1024],
        "mask_convs": 4,
        "mask_dim": 256,
        "agnostic_boxes": False,
        "agnostic_masks": False,
        "norm": "LN",
    }
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


ATS = {"selector": {"name": "ats"}, "treatment": {"name": "preserve"}, "schedule": SVIT["schedule"]}
ADAPTER = {"adapter": {"conv_dim": 8, "heads": 3, "points": 2}}
ALL_LEVELS = {"pyramid": {"scales": [4, 2, 1, 0.5], "channels": 16, "top_level": True}}


def sharpen(model):
    """Attention that is not flat, so that ATS keeps other counts in other images."""
    with torch.no_grad():
        for block in model.pruned.backbone.blocks:
            block.attn.qkv.weight.mul_(12.0)


@pytest.mark.parametrize("axes", [{}, SVIT, EVIT], ids=["dense", "svit", "evit"])
def test_with_an_adapter_every_parameter_learns(config, axes):
    """All levels: from the first convolutions to the heads, gates included."""
    task, model, batch = first_batch(config(backbone=ADAPTER, task=ALL_LEVELS, **axes))
    awake(model.backbone.dense)
    losses = task.losses(model, batch)
    assert set(losses) == BASIC | ({"loss_ratio"} if axes.get("losses") else set())
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    # not the pyramid's: which levels the few samples of the heads come from is chance
    silent = [n for n, p in model.backbone.dense.named_parameters() if not p.grad.abs().sum() > 0]
    assert all("cls_token" in n for n in silent), silent


def test_with_an_adapter_pictures_of_uneven_counts_share_a_batch(config):
    _, model, _ = first_batch(config(backbone=ADAPTER, task=ALL_LEVELS, **ATS))
    sharpen(model)
    images = [torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for h, w in ((61, 47), (40, 90))]
    with torch.no_grad():
        outputs = model.eval()([{"image": x, "height": x.shape[1], "width": x.shape[2]} for x in images])
    assert [o["instances"].image_size for o in outputs] == [(61, 47), (40, 90)]
    inside = model.backbone.dense.last_outputs
    assert inside.grid == (8, 12) and len(set(inside.usage[-1].fed.tolist())) == 2, inside.usage


def test_with_an_adapter_the_keys_of_the_encoder_stay(config):
    plain, adapted = (set(first_batch(config(backbone=b))[1].state_dict()) for b in ({}, ADAPTER))
    encoder = {k for k in plain if k.startswith("backbone.dense.pruned.") and ".backbone.norm." not in k}
    assert encoder and encoder <= adapted and not any(".backbone.norm." in k for k in adapted)


def test_cost_is_that_of_the_encoder_inside_the_adapter(config):
    """Selectors decide on injected tokens, so that the encoder by itself would keep others."""
    cfg = config(backbone=ADAPTER, **ATS)
    task, model, _ = first_batch(cfg)
    sharpen(model)
    awake(model.backbone.dense, strength=3.0)
    from tokenprune.tasks.detection.evaluate import encoder_images
    from tokenprune.tasks.detection.loader import Resize

    kept = task.cost(model, cfg)["kept_per_block"]
    alone = encoder_cost(model.pruned, encoder_images(model, task._data(cfg, "val"), 2, Resize()))["kept_per_block"]
    assert kept != alone and model.training


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("adapter", [{}, ADAPTER], ids=["plain", "adapter"])
@pytest.mark.parametrize("scales", [[4, 2, 1, 0.5], [2]], ids=str)
def test_positions_of_a_configuration_are_those_of_the_detector(config, patch, adapter, scales):
    cfg = config(backbone={"patch_size": patch, **adapter}, task={"pyramid": {"scales": scales}})
    with torch.device("meta"):
        divisor = get("task", "detection")().build_model(cfg).backbone.size_divisibility
    for height, width in ((64, 72), (100, 131), (800, 1333)):
        padded = [-(-side // divisor) * divisor // patch for side in (height, width)]
        assert positions({**cfg, "data": {"short_side": height, "long_side": width}}) == padded[0] * padded[1]


@pytest.mark.parametrize(("size", "millions", "vit", "gated"), [("tiny", 28, 103.6, 52.0), ("small", 48, 251.8, 133.0)])
def test_the_paper_models_have_the_papers_parameters_and_macs(config, size, millions, vit, gated):
    """SViT Table 5: 28 M and 48 M parameters with 80 classes; GMACs of the blocks at 4200 tokens."""
    from tokenprune.tasks.detection.model import build_detector

    for method, expected in (("dense", vit), ("svit", gated)):
        cfg = resolve(compose(["scale=paper", f"backbone=vit_adapter_{size}", f"method={method}"]))
        with torch.device("meta"):
            model = build_detector(read_task(cfg["task"]), build_pruned(cfg), 80, cfg["backbone"])
        macs = planned_macs(model.pruned, positions(cfg))
        assert round((macs.total - macs.embedding) / 1e9, 1) == expected
        assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    assert model.backbone.size_divisibility == 32 and list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


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


def test_the_share_of_objects_in_each_cell_by_loops(config):
    """The padding of a smaller picture holds no object."""
    from tokenprune.methods.losses.class_attention import ClassAttention

    _, model, batch = first_batch(config(**EVIT))
    model.pruned.loss_terms = {"class_attention": ClassAttention()}
    batch[0]["image"] = batch[0]["image"][:, :40]
    batch[0]["instances"] = batch[0]["instances"][:0]
    losses = model(batch)
    found = model._foreground(batch)["foreground"]
    rows, columns = model.backbone.dense.last_outputs.grid
    assert losses["loss_class_attention"] > 0 and found.shape == (len(batch), rows * columns) and found[0].sum() == 0
    masks, patch = batch[1]["instances"].gt_masks.tensor.any(0), model.pruned.patch_size
    for row in range(rows):
        for column in range(columns):
            cell = masks[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            assert float(found[1, row * columns + column]) == pytest.approx(float(cell.sum()) / patch**2, abs=1e-6)


def test_it_takes_the_weights_of_one_without_adapter_and_keeps_its_own_around_them(config):
    backbone = {"patch_size": 8, "depth": 4, "adapter": {"conv_dim": 4, "heads": 3}}
    task = get("task", "detection")()
    fitting = task.build_model(config(backbone={key: value for key, value in backbone.items() if key != "adapter"}))
    torch.manual_seed(2)
    model = task.build_model(config(backbone=backbone))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taken = model.adopt(fitting.state_dict())
    assert taken.keys() == before.keys()
    around = [n for n in before if n.startswith("backbone.") and not n.startswith("backbone.dense.pruned.")]
    assert any("prior" in n for n in around) and any("pyramid" in n for n in around)
    assert all(torch.equal(taken[n], before[n]) for n in around)
    theirs = fitting.state_dict()
    assert all(torch.equal(taken[n], theirs[n]) for n in before if n not in around)
    again = model.adopt(before)
    assert all(torch.equal(again[n], before[n]) for n in before)
