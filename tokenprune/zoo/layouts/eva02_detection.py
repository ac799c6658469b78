"""Imports EVA-02's detectors (Cascade Mask R-CNN of Detectron2 over a windowed EVA-02 and ViTDet's simple feature pyramid).

The file says the sides of its images and windows and which blocks are global: each block holds a copy of its rotary table, which has one
row a cell. Heads have Detectron2's own names. Position codes are of the 14 x 14 grid of pre-training. They are resized once, by plain
bicubic interpolation, because the encoder pads every picture to its full square.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.backbones.position_codes import resize_codes
from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.detectors import HEADS
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_NET, _ENCODER = "backbone.net.", "backbone.dense.pruned.backbone."
_CODES, _STEM = _NET + "pos_embed", _NET + "patch_embed.proj.weight"
_WINDOW, _WHOLE = _NET + "rope_win.freqs_cos", _NET + "rope_glb.freqs_cos"
_GRID = 16  # side of the grid of pre-training, to which the places of rotary codes are scaled
_LVIS = 1203
_TABLE = "attn.rope.freqs_cos"
MODELS = {768: "eva02_base_patch14_224", 1024: "eva02_large_patch14_224"}  # timm's models by their channels

# What neither keys nor shapes say, as the authors' configurations have it (ViTDet's).
_HEADS = {**HEADS, "norm": "LN", "agnostic_boxes": True, "cascade_ious": [0.5, 0.6, 0.7]}
# Names inside a block: theirs, timm's.
_INSIDE = {
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
    "mlp.ffn_ln": "mlp.norm",
}
_BLOCK = re.compile(r"backbone\.net\.blocks\.(\d+)\.(.+)")
_LEVEL = re.compile(r"backbone\.simfp_(\d)\.(\d)\.(norm\.)?(weight|bias)")
_ROTARY = re.compile(r"backbone\.net\.(?:blocks\.\d+\.attn\.rope|rope_(?:win|glb))\.freqs_(?:cos|sin)")
_FIRST_CONV = {"2": 4, "3": 1, "4": 0, "5": 1}  # place of the 1x1 convolution in each level


@register("layout", "eva02_detection")
class Eva02Detection(Layout):
    """EVA-02-B and -L with Cascade Mask R-CNN, of COCO and other sets with masks and a softmax over classes."""

    name = "eva02_detection"
    task = "detection"
    # The first three are said by the file itself, unless its rotary tables were taken out of it. The authors' results on the level of
    # systems come from soft_nms 0.6, those of masks also from mask_scoring.
    offers = {"img_size": None, "window": None, "global_blocks": None, "soft_nms": None, "mask_scoring": False}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell by the split projections of EVA-02 inside Detectron2's names."""
        return _NET + "blocks.0.attn.q_proj.weight" in state and any(key.startswith("roi_heads.") for key in state)

    def known(self, release: Release) -> dict[str, Any]:
        """Return the sides of images (px) and windows (cells), and the global blocks, as the rotary tables show them."""
        state = release.state
        if not {_STEM, _WINDOW, _WHOLE} <= state.keys():
            return {}
        whole, patch = len(state[_WHOLE]), state[_STEM].shape[-1]
        tables = {int(found[1]): len(table) for key, table in state.items() if (found := _BLOCK.fullmatch(key)) and _TABLE in key}
        blocks = {"global_blocks": sorted(block for block, rows in tables.items() if rows == whole)} if tables else {}
        return {"img_size": patch * _side(state[_WHOLE]), "window": _side(state[_WINDOW]), **blocks}

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """See `Layout.convert`."""
        _refuse(release, given)
        backbone = _backbone(release.state, given)
        grid = backbone["img_size"] // backbone["patch_size"]
        state, left_out, unknown = {}, {}, []
        for key, value in release.state.items():
            if _ROTARY.fullmatch(key):
                left_out[key] = "rotary tables are computed, and equal the file's"
            elif (ours := _renamed(key)) is None:
                unknown.append(key)
            else:
                state[ours] = value
        if unknown:
            raise CheckpointMismatch(f"checkpoint {release.name} (layout {self.name}): these keys have no place: {', '.join(unknown)}")
        before = math.isqrt(release.state[_CODES].shape[1] - 1)
        state[_ENCODER + "pos_embed"] = resize_codes(release.state[_CODES][:, 1:], (before, before), (grid, grid))
        side = backbone["img_size"]
        soft = {} if given["soft_nms"] is None else {"soft_nms": given["soft_nms"], "score": 0.0}
        task = _task(release.state, {**soft, "mask_scoring": given["mask_scoring"]})
        classes = len(release.state["roi_heads.box_predictor.0.cls_score.weight"]) - 1
        settings = {"task": task, "backbone": backbone, "cls": "learned"}
        return Imported(settings, state, classes, view={"short_side": side, "long_side": side}, left_out=left_out)


def _refuse(release: Release, given: Mapping[str, Any]) -> None:
    """Refuse files whose model is not built here, or whose rotary tables are not those that it computes."""
    state = release.state
    required = (_CODES, _STEM, "roi_heads.box_predictor.0.cls_score.weight", "backbone.simfp_2.5.weight")
    missing = [key for key in required if key not in state]
    unsaid = [name for name in ("img_size", "window", "global_blocks") if given[name] is None]
    reason = ""
    if missing:
        reason = f"keys are missing that its sizes are read from: {', '.join(missing)}"
    elif unsaid:
        reason = f"{', '.join(unsaid)}: the file has no rotary tables that say it; give it (sides in pixels and cells, numbers of blocks)"
    elif "roi_heads.mask_head.predictor.weight" not in state:
        reason = "it has no mask head (the detectors of Objects365 find boxes alone, and are a start for fine-tuning: init=FILE)"
    elif len(state["roi_heads.box_predictor.0.cls_score.weight"]) == _LVIS + 1:
        reason = "it is of LVIS, whose detectors score each class by a sigmoid; allowed: a softmax over classes, as of COCO"
    elif state[_STEM].shape[0] not in MODELS:
        reason = f"its encoder has {state[_STEM].shape[0]} channels; allowed: {', '.join(map(str, MODELS))}"
    elif wrong := [key for key in (_WINDOW, _WHOLE) if key in state and not _as_computed(state[key])]:
        reason = f"{' and '.join(wrong)} are not the tables of squares, scaled to a grid of {_GRID} x {_GRID}, that this encoder computes"
    if reason:
        raise CheckpointMismatch(f"checkpoint {release.name} (layout eva02_detection) cannot be imported: {reason}")


def _renamed(key: str) -> str | None:
    """Return our key of one of the authors'; None if it has no place."""
    if key.startswith(("proposal_generator.", "roi_heads.")):
        return key
    if found := _LEVEL.fullmatch(key):
        level, place, norm, kind = found.groups()
        first = _FIRST_CONV[level]
        convs = max(int(place) - first + 1, 0)  # 0 for layers in front of the convolutions, then 1 and 2
        ours = int(place) + (1 if convs == 2 else 0) + (1 if norm else 0)
        return f"backbone.pyramid.levels.p{level}.{ours}.{kind}"
    if found := _BLOCK.fullmatch(key):
        inside = next((ours + found[2].removeprefix(theirs) for theirs, ours in _INSIDE.items() if found[2].startswith(theirs)), found[2])
        return f"{_ENCODER}blocks.{found[1]}.{inside}"
    if key.startswith((_NET + "patch_embed.", _CODES)):
        return _ENCODER + key.removeprefix(_NET)
    return None


def _side(table: Tensor) -> int:
    return math.isqrt(len(table))


def _as_computed(cosines: Tensor) -> bool:
    """Tell whether a table (n*n,d) holds the cosines of rows then columns 0 ... n-1, scaled to the grid of pre-training."""
    n, width = _side(cosines), cosines.shape[1] // 2
    if n * n != len(cosines):
        return False
    frequencies = 10000.0 ** (-torch.arange(0, width, 2)[: width // 2].float() / width)
    angles = (torch.arange(n) / n * _GRID)[:, None] * frequencies.repeat_interleave(2)
    rows, columns = angles[:, None].expand(n, n, -1), angles[None].expand(n, n, -1)
    expected = torch.cat([rows, columns], -1).cos().flatten(0, 1)
    return expected.shape == cosines.shape and bool((expected - cosines.float()).abs().max() < 1e-2)  # files may hold float16


def _backbone(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `backbone` group."""
    return {
        "name": "eva02_windowed",
        "model": MODELS[state[_STEM].shape[0]],
        "repatch": True,
        "img_size": given["img_size"],
        "patch_size": state[_STEM].shape[-1],
        "class_token": False,
        "windows": {"size": given["window"], "global_blocks": list(given["global_blocks"]), "rope": "original"},
        "pos_resample": "bicubic",
    }


def _task(state: Mapping[str, Tensor], scoring: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `task` group: the authors' settings, and the sizes of the heads."""

    def layers(pattern: str) -> list[int]:
        """Return the outputs of layers whose numbers follow each other."""
        found = sorted((int(match[1]), len(value)) for key, value in state.items() if (match := re.fullmatch(pattern, key)))
        return [outputs for _, outputs in found]

    masks = layers(r"roi_heads\.mask_head\.mask_fcn(\d+)\.weight")
    sizes = {
        "rpn_convs": max(len(layers(r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.weight")), 1),
        "box_convs": len(layers(r"roi_heads\.box_head\.0\.conv(\d+)\.weight")),
        "box_fc": layers(r"roi_heads\.box_head\.0\.fc(\d+)\.weight"),
        "mask_convs": len(masks),
        "mask_dim": masks[0],
    }
    pyramid = {"scales": [4.0, 2.0, 1.0, 0.5], "channels": len(state["backbone.simfp_2.5.weight"]), "top_level": True}
    return {"name": "detection", "detector": "cascade", "pyramid": pyramid, "heads": {**_HEADS, **sizes, **scoring}}
