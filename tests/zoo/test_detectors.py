"""Published detectors without anything but this checkout: parts and whole models against the trimmed goldens; refusals by name."""

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.helpers.filled import TRIMMED, fill, filled, noise
from tokenprune.backbones.deformable import cell_centres
from tokenprune.errors import CheckpointMismatch
from tokenprune.measure.usage import record as usage
from tokenprune.zoo.layout import converted, layout_of
from tokenprune.zoo.release import Release, read_release

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
from tests.helpers.detectors import built, saved  # noqa: E402

FACTS, NUMBERS = json.loads((TRIMMED / "detectors.json").read_text()), load_file(TRIMMED / "detectors.safetensors")
EVA, EVA_NUMBERS = json.loads((TRIMMED / "eva02_detection.json").read_text()), load_file(TRIMMED / "eva02_detection.safetensors")


def difference(found, name, facts=FACTS, numbers=NUMBERS):
    """The greatest difference of a tensor from the numbers that are kept of it."""
    known = facts["tensors"].get(name, {"shape": list(numbers[name].shape), "step": 1})
    assert list(found.shape) == known["shape"], name
    return float((found.flatten()[:: known["step"]] - numbers[name].flatten()).abs().max())


def picture(name, height, width):
    """Noise as pixels, (3,H,W) uint8."""
    return (40 * noise(name, (3, height, width), "dev") + 120).clamp(0, 255).round().to(torch.uint8)


def state_of(name):
    return filled(FACTS["shapes"][name], shifts=FACTS["shifts"][name])


def empty(**changes):
    """A file of SViT's tiny detector without numbers: enough to be recognised and refused."""
    state = {key: torch.empty(shape, device="meta") for key, shape in FACTS["shapes"]["svit_t"].items()}
    return Release("svit.pth", {**state, **changes})


def same(found, boxes, labels):
    """Whether detections are these, in this order, up to rounding."""
    assert len(found) == len(boxes) and torch.equal(found.pred_classes, labels)
    assert torch.allclose(found.pred_boxes.tensor, boxes[:, :4], atol=2e-3) and torch.allclose(found.scores, boxes[:, 4], atol=1e-4)


@pytest.fixture(scope="module", params=["vit_t", "svit_t"])
def tiny(request, tmp_path_factory):
    """A name, and its detector, imported from a file as mmcv writes it."""
    path = saved(state_of(request.param), tmp_path_factory.mktemp("files") / "epoch_36.pth", config="model = dict()")
    return request.param, built(converted(read_release(path), {}))


@torch.no_grad()
def test_parts_agree_with_the_authors_code(tiny):
    name, detector = tiny
    dense, grid, shapes = detector.backbone.dense, (4, 6), [(8, 12), (4, 6), (2, 3)]
    tokens, pyramid = ((0.003 * noise(f"probe.{part}", (1, n, 192), "dev")).float() for part, n in (("tokens", 24), ("pyramid", 126)))
    found = {
        "block.0": dense.pruned.backbone.blocks[0](tokens),
        "injector.0": dense.injectors[0](tokens, cell_centres([grid])[None], pyramid, shapes),
        "extractor.0": dense.extractors[0][0](pyramid, cell_centres(shapes)[None], tokens, grid, shapes),
    }
    found |= {"gate.3.logits": dense.pruned.selectors["3"].gate.layers(tokens)} if name == "svit_t" else {}
    for part, value in found.items():
        assert difference(value, f"{name}.{part}") < 1e-5, part


@torch.no_grad()
def test_the_whole_detector_is_the_one_that_agreed(tiny):
    name, detector = tiny
    record = {"image": picture("detector.picture", 192, 256), "height": 230, "width": 300}
    with torch.backends.mkldnn.flags(enabled=False), usage(detector) as used:
        maps = detector.backbone.dense(detector.preprocess_image([record]).tensor)
        found = detector([record])[0]["instances"]
    for place, level in enumerate(maps.values(), 1):
        assert difference(level, f"own.{name}.f{place}") < 5e-5
    if name == "svit_t":
        assert torch.equal(used.images[0].blocks[3:], NUMBERS["own.svit_t.kept"].bool())
    same(found, NUMBERS[f"own.{name}.detections.boxes"], NUMBERS[f"own.{name}.detections.labels"])


def test_the_file_says_sizes_and_what_was_trained(tiny):
    name, detector = tiny
    found = converted(Release("x.pth", state_of(name)), {})
    backbone = found.settings["backbone"]
    assert (backbone["embed_dim"], backbone["depth"], backbone["num_heads"], backbone["img_size"]) == (192, 12, 3, 224)
    assert backbone["adapter"] == {"conv_dim": 64, "heads": 6, "points": 4, "ratio": 1.0, "ffn_ratio": 0.25}
    assert backbone["pos_resample"] == "bicubic" and found.classes == 80 and found.view == {"short_side": 800, "long_side": 1333}
    assert ("selector" in found.settings) == (name == "svit_t") == (backbone.get("norm_eps") == 1e-5)
    assert detector.pruned.backbone.blocks[0].norm1.eps == (1e-5 if name == "svit_t" else 1e-6)
    assert [int(block) for block in detector.pruned.selectors] == (list(range(3, 12)) if name == "svit_t" else [])


def test_a_window_vit_adapter_is_refused_by_name():
    with pytest.raises(CheckpointMismatch, match=r"blocks have gamma1 and gamma2\), whose blocks attend inside windows"):
        converted(empty(**{"backbone.blocks.0.gamma1": torch.zeros(1), "backbone.blocks.0.gamma2": torch.zeros(1)}), {})


OF_ATC = "model=dict(type='MaskRCNN', backbone=dict(type='ATCViTAdapter'"


@pytest.mark.parametrize(("name", "meta"), [("atc_small-coco17-average_0.5.pth", {}), ("x.pth", {"config": OF_ATC})])
def test_merging_detectors_are_refused_by_name(name, meta):
    with pytest.raises(CheckpointMismatch, match="undoes its merging before each injector"):
        converted(Release(name, empty().state, meta=meta), {})


def test_keys_without_a_place_and_missing_keys_are_all_named():
    with pytest.raises(CheckpointMismatch, match=r"2 keys have no place .*: teacher.x, neck.extra"):
        converted(empty(**{"teacher.x": torch.zeros(1), "neck.extra": torch.zeros(1)}), {})
    state = {key: value for key, value in empty().state.items() if "mask_head" not in key and key != "backbone.pos_embed"}
    with pytest.raises(CheckpointMismatch, match="backbone.pos_embed, roi_head.mask_head.convs.0.conv.weight, roi_head.mask_head.conv_log"):
        converted(Release("x.pth", state), {})


def test_a_dense_classifier_is_not_taken_for_a_detector():
    state = {key.removeprefix("backbone."): value for key, value in empty().state.items() if key.startswith("backbone.")}
    with pytest.raises(CheckpointMismatch):
        layout_of(Release("x.pth", state))


@pytest.fixture
def eva(monkeypatch, tmp_path):
    """The small EVA-02 detector of the golden, imported from a file as Detectron2 writes it; a function of further settings."""
    from timm.models import eva as models

    from tokenprune.zoo.layouts import eva02_detection as layout

    def small(pretrained=False, **given):
        sizes = {"img_size": 224, "patch_size": 14, "embed_dim": 48, "depth": 4, "num_heads": 3, "qkv_fused": False, "mlp_ratio": 8 / 3}
        kind = {"swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
        return models._create_eva("eva02_tiny_patch14_224", pretrained=pretrained, **{**sizes, **kind, **given})

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "eva02_small", small)
    monkeypatch.setitem(layout.MODELS, 48, "eva02_small")

    def make(drop=(), name="eva02_B_coco_bsl.pth", given=None, **changes):
        state = {key: table(key, shape) if "freqs_" in key else fill(key, shape) for key, shape in EVA["shapes"].items()}
        state = {key: value for key, value in {**state, **changes}.items() if not key.startswith(tuple(drop))}
        torch.save({"model": state, "iteration": 59999, "trainer": {}}, tmp_path / name)
        return converted(read_release(tmp_path / name), given or {})

    return make


def table(key, shape):
    """The rotary table of a published file by its formula, cell by cell: y first, then x, places scaled to 16 cells a side."""
    side, half = int(shape[0] ** 0.5), shape[1] // 2
    frequencies = np.repeat([10000 ** (-2 * i / half) for i in range(half // 2)], 2)
    cells = [np.concatenate([y * 16 / side * frequencies, x * 16 / side * frequencies]) for y in range(side) for x in range(side)]
    return torch.tensor(np.array(cells), dtype=torch.float32).cos() if key.endswith("cos") else torch.tensor(np.array(cells)).float().sin()


@torch.no_grad()
def test_eva_02_agrees_with_the_authors_encoder_and_pyramid_and_detectron2s_heads(eva):
    found = eva()
    detector = built(found)
    record = {"image": picture("eva.picture", 128, 128), "height": 150, "width": 170}
    images = detector.preprocess_image([record])
    levels = detector.backbone(images.tensor)
    for name, level in levels.items():
        assert difference(level, f"fpn.{name}", EVA, EVA_NUMBERS) < 2e-5
    proposals = detector.proposal_generator(images, levels)[0][0]
    assert len(proposals) == EVA["count_proposals"]
    assert torch.allclose(proposals.proposal_boxes.tensor[:20], EVA_NUMBERS["proposals"], atol=2e-3)
    detections = detector([record])[0]["instances"]
    assert len(detections) == EVA["count_detections"]
    same(detections[:40], EVA_NUMBERS["detections.boxes"], EVA_NUMBERS["detections.labels"])


def test_eva_02s_file_says_grid_windows_and_global_blocks(eva):
    found = eva()
    backbone = found.settings["backbone"]
    assert backbone["img_size"] == 128 and backbone["windows"] == {"size": 4, "global_blocks": [1, 3], "rope": "original"}
    assert found.view == {"short_side": 128, "long_side": 128} and found.classes == 5
    heads = found.settings["task"]["heads"]
    assert (heads["rpn_convs"], heads["box_convs"], heads["box_fc"], heads["mask_convs"], heads["mask_dim"]) == (2, 4, [64], 4, 32)
    assert found.settings["task"]["detector"] == "cascade" and len(found.left_out) == 12 and "soft_nms" not in heads
    system = eva(given={"soft_nms": 0.6, "mask_scoring": True}).settings["task"]["heads"]
    assert (system["soft_nms"], system["mask_scoring"], system["score"]) == (0.6, True, 0.0)


def test_a_file_without_tables_asks_for_what_they_say(eva):
    tables = [key for key in EVA["shapes"] if "freqs_" in key]
    with pytest.raises(CheckpointMismatch, match="img_size, window, global_blocks: the file has no rotary tables"):
        eva(drop=tables)
    found = eva(drop=tables, given={"img_size": 128, "window": 4, "global_blocks": [1, 3]})
    assert found.settings["backbone"] == eva().settings["backbone"] and not found.left_out


def test_what_cannot_be_built_of_eva_02_is_refused_by_name(eva):
    with pytest.raises(CheckpointMismatch, match="no mask head .the detectors of Objects365"):
        eva(drop=["roi_heads.mask_head."])
    with pytest.raises(CheckpointMismatch, match="of LVIS, whose detectors score each class by a sigmoid"):
        eva(**{"roi_heads.box_predictor.0.cls_score.weight": torch.zeros(1204, 64)})
    with pytest.raises(CheckpointMismatch, match="has 96 channels; allowed: 768, 1024"):
        eva(**{"backbone.net.patch_embed.proj.weight": torch.zeros(96, 3, 16, 16)})
    with pytest.raises(CheckpointMismatch, match="rope_glb.freqs_cos are not the tables of squares"):
        eva(**{"backbone.net.rope_glb.freqs_cos": torch.zeros(64, 16)})
    with pytest.raises(CheckpointMismatch, match="window is 8, and the file itself says 4"):
        eva(given={"window": 8})
    with pytest.raises(CheckpointMismatch, match="these keys have no place: backbone.net.blocks.0.residual.conv1.weight|teacher"):
        eva(**{"teacher.weight": torch.zeros(1)})


def test_a_detector_file_with_code_is_not_opened(tmp_path):
    class Danger:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"meta": Danger(), "state_dict": {}}, tmp_path / "bad.pth", pickle_module=pickle)
    with pytest.raises(CheckpointMismatch, match="no code is run"):
        read_release(tmp_path / "bad.pth")
