"""Detectors around an encoder that attends inside windows: Cropr's rows, their losses, padding, weights of relatives."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.fakes import cli  # noqa: F401
from tokenprune.backbones.vit import VitConfig, read_backbone
from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.detection.settings import read_task
from tokenprune.tasks.encoder import positions
from tokenprune.utils.checkpoints import load_dense, save_weights

ROWS = list(rows_of("cropr_table3_detection"))
MINI = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "coco_mini"
WINDOWS = {"class_token": False, "windows": {"size": 2, "global_blocks": [1, 3]}}
PLAN = {"name": "window_squares", "blocks": [1, 2], "step": 2}
SELECTORS = ["random", "variance", {"name": "attn_topk", "score": "column_mean"}, {"name": "cropr"}]


@functools.cache
def row(scale, name):
    return resolve(compose(["+experiment=cropr_table3_detection", f"+rows/cropr_table3_detection={name}", f"scale={scale}"]))


def pruned(config, selector="cropr", detector="cascade", **backbone):
    spec = {"name": selector} if isinstance(selector, str) else selector
    losses = {"auxiliary": {"weight": 1.0}} if spec["name"] == "cropr" else {}
    axes = {"selector": spec, "treatment": {"name": "last_layer_fusion"}, "schedule": PLAN, "losses": losses}
    return config(backbone={**WINDOWS, **backbone}, task={"detector": detector}, **axes)


def first_batch(cfg):
    task = get("task", "detection")()
    torch.manual_seed(0)
    return task, task.build_model(cfg).train(), next(task.train_batches(cfg, 0))


@pytest.mark.parametrize("detector", ["mask", "cascade"])
@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_every_row_trains_and_infers(config, selector, detector):
    task, model, batch = first_batch(pruned(config, selector, detector))
    losses = task.losses(model, batch)
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without
    silent = [n for n, p in model.backbone.named_parameters() if not p.grad.abs().sum() > 0]
    assert not silent, silent
    with torch.no_grad():
        (output,) = model.eval()([{"image": batch[0]["image"], "height": 64, "width": 64}])
    assert output["instances"].pred_masks.shape[1:] == (64, 64)
    assert [int(u.attended[0]) for u in model.backbone.dense.last_outputs.usage] == [64, 36, 16, 64]


def test_auxiliary_heads_learn_which_classes_a_picture_holds(config):
    """Binary cross-entropy by hand, a mean over pictures and classes, a sum over modules; one picture holds nothing."""
    task, model, batch = first_batch(pruned(config))
    batch[1]["instances"] = batch[1]["instances"][[]]
    losses = task.losses(model, batch)
    outputs = model.backbone.dense.last_outputs
    wanted = torch.zeros(2, 8)
    wanted[0, batch[0]["instances"].gt_classes.unique()] = 1
    assert 0 < wanted.sum() < 8
    logits = [payload for name, _, payload in outputs.aux if name == "auxiliary"]
    terms = [(F.softplus(x) - x * wanted).mean() for x in logits]
    assert len(terms) == 2 and losses["loss_auxiliary"].item() == pytest.approx(sum(terms).item(), rel=1e-5)
    losses["loss_auxiliary"].backward()
    learned = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned and all(".selectors." in n for n in learned)
    assert all(torch.isfinite(v) for v in losses.values())


def test_pictures_are_padded_to_the_square_of_the_model(config):
    cfg = pruned(config)
    _, model, _ = first_batch(cfg)
    assert model.backbone.size_divisibility == 64 == model.backbone.padding_constraints["size_divisibility"]
    images = [torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for h, w in ((61, 40), (30, 64))]
    with torch.no_grad():
        model.eval()([{"image": x, "height": x.shape[1], "width": x.shape[2]} for x in images])
    assert model.backbone.dense.last_outputs.grid == (8, 8)
    assert positions({**cfg, "data": {"short_side": 40, "long_side": 61}}) == 64


@pytest.mark.parametrize("detector", ["mask", "cascade"])
def test_a_plain_detector_starts_a_windowed_one(config, detector, tmp_path):
    """Class token, its position code and the final norm stay behind; each stage gets the one box head; all else is the file's."""
    _, plain, _ = first_batch(config(backbone={"class_token": True}))
    _, model, _ = first_batch(pruned(config, detector=detector))
    save_weights(tmp_path / "plain.safetensors", plain)
    load_dense(model, tmp_path / "plain.safetensors")
    theirs, ours, encoder = plain.state_dict(), model.state_dict(), "backbone.dense.pruned.backbone."
    assert torch.equal(ours[f"{encoder}pos_embed"], theirs[f"{encoder}pos_embed"][:, 1:])
    for name, value in theirs.items():
        if "box_head" in name or "box_predictor" in name:
            part, rest = name.split(".", 2)[1:]
            stages = [f"{part}.{rest}"] if detector == "mask" else [f"{part}.{i}.{rest}" for i in range(3)]
            assert all(torch.equal(ours[f"roi_heads.{stage}"], value) for stage in stages)
        elif name.removeprefix(encoder) not in ("cls_token", "pos_embed", "norm.weight", "norm.bias"):
            assert torch.equal(ours[name], value), name


def test_a_detector_of_other_sizes_is_still_refused(config, tmp_path):
    _, plain, _ = first_batch(config(backbone={"embed_dim": 12}))
    _, model, _ = first_batch(pruned(config))
    save_weights(tmp_path / "plain.safetensors", plain)
    with pytest.raises(CheckpointMismatch, match="shape of backbone.dense.pruned.backbone.blocks.0"):
        load_dense(model, tmp_path / "plain.safetensors")


@pytest.mark.parametrize(("scale", "counts"), [("smoke", (36, 16, 4)), ("demo", (144, 64, 16)), ("paper", (6400, 4096, 2304, 1024, 256))])
@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_table_3_validates(name, scale, counts):
    config = row(scale, name)
    words = validate(config, files=False)
    assert config["task"]["detector"] == "cascade" and config["backbone"]["windows"]["rope"] == "original"
    if name != "00_dense":
        assert [int(word.split(" keep ")[1].split(";")[0]) for word in words.split(", ")] == list(counts)
        assert config["treatment"]["name"] == "last_layer_fusion"


def test_the_rows_of_table_3_are_the_papers_and_their_keys_differ():
    assert ROWS == ["00_dense", "01_random", "02_variance", "03_attn_topk", "04_cropr"]
    assert len({run_key(row("demo", name)) for name in ROWS}) == 5
    assert row("demo", "03_attn_topk")["selector"]["score"] == "column_mean"


def test_the_papers_heads_and_recipe():
    """EVA-02's fine-tuning from Objects365 and ViTDet's heads; the dense row is trained alike."""
    config = row("paper", "04_cropr")
    training, task = config["training"], read_task(config["task"])
    assert (training["iterations"], training["batch_size"], training["lr"], training["warmup"]) == (40000, 64, 4e-5, 400)
    assert (training["schedule"], training["layer_decay"], training["ema"]) == ("constant", 0.8, 0.9999)
    assert config["dense"]["training"] == training and config["backbone"]["drop_path"] == 0.3
    assert (task.augment.policy, task.augment.final_crop, task.augment.scale_range) == ("lsj", 1536, (0.1, 2.0))
    assert (task.heads.soft_nms, task.heads.mask_scoring) == (None, False) and positions(config) == 9216
    plain = resolve(
        compose(["+experiment=cropr_table3_detection", "+rows/cropr_table3_detection=04_cropr", "scale=paper", "backbone=eva02_windowed"])
    )
    assert plain["training"] == training and plain["task"] == config["task"] and plain["data"] == config["data"]
    unused = ("name", "embed_dim", "depth", "num_heads")  # of a model by name
    ours, theirs = (replace(read_backbone(c["backbone"]), **{k: getattr(VitConfig(), k) for k in unused}) for c in (plain, config))
    assert ours == theirs


def test_the_papers_model_has_vitdets_heads():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    from tokenprune.tasks.detection.model import build_detector
    from tokenprune.tasks.encoder import build_pruned

    config = row("paper", "04_cropr")
    with torch.device("meta"):
        model = build_detector(read_task(config["task"]), build_pruned(config, classes=80), 80, config["backbone"])
    assert model.backbone.size_divisibility == 1536 and list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert len(model.proposal_generator.rpn_head.conv) == 2
    assert model.proposal_generator.rpn_head.objectness_logits.out_channels == 3
    for head in model.roi_heads.box_head:
        kinds = [type(part).__name__ for part in head.children()]
        assert kinds.count("Conv2d") == 4 and kinds.count("Linear") == 1 and type(head.conv1.norm).__name__ == "ChannelNorm"
    assert [p.bbox_pred.out_features for p in model.roi_heads.box_predictor] == [4, 4, 4]
    assert model.roi_heads.mask_head.predictor.out_channels == 80
    assert sum(p.numel() for p in model.pruned.backbone.parameters()) == pytest.approx(304e6 + 9216 * 1024, rel=0.01)


@pytest.mark.skipif(not MINI.is_dir(), reason="shared/data/coco_mini is not beside this checkout")
def test_a_row_runs_on_real_pictures(cli):  # noqa: F811
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    few = ["training.iterations=1", "init=scratch", "data.max_val=2", "task.evaluate.speed_images=1", "task.evaluate.cost_images=1"]
    code, _, err = cli("+experiment=cropr_table3_detection", "+rows/cropr_table3_detection=04_cropr", "scale=smoke", "data=coco",
                       f"data.root={MINI}",
                       "hydra.mode=RUN", *few)  # fmt: skip
    (found,) = cli.rows()
    assert (code, err, found["status"]) == (0, "", "ok") and 0 <= found["metrics"]["ap_box"] <= 100
    assert [round(share * 64) for share in found["cost"]["kept_per_block"]] == [64, 64, 36, 36, 36, 16, 16, 16, 4, 4, 4, 64]
