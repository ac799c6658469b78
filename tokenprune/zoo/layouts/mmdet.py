"""Imports detectors that were trained with mmdetection 2 around a ViT-Adapter: SViT's published files, dense and pruned.

The files hold `meta`, `state_dict` and perhaps `optimizer`. No tensor is transposed; only the position codes lose that of a class token,
which the model does not have.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.detectors import HEADS
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_ENCODER = "backbone.dense.pruned.backbone."
_HEAD_WIDTH = 64  # channels of an attention head of a DeiT
_POINTS = 4  # of a head of the deformable attention on a level
_LEVELS = 3  # that an injector reads
_FIRST_GATE = 3  # block before which SViT's first gate stands
_SVIT_EPS = 1e-5  # torch's TransformerEncoderLayer; the blocks of the dense files have timm's 1e-6

# What neither keys nor shapes say: mmdetection's Mask R-CNN as ViT-Adapter and SViT train and test it, in Detectron2's terms.
_HEADS = {**HEADS, "rpn_convs": 1, "roi_iou": 0.5, "box_convs": 0, "norm": "", "agnostic_boxes": False}

# (pattern of the authors' keys, key of ours); the first that fits counts.
_RENAMES = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"backbone\.(pos_embed|patch_embed\..+)", _ENCODER + r"\1"),
        (r"backbone\.blocks\.(\d+)\.TransformerEncoderLayer\.self_attn\.in_proj_(weight|bias)", _ENCODER + r"blocks.\1.attn.qkv.\2"),
        (r"backbone\.blocks\.(\d+)\.TransformerEncoderLayer\.self_attn\.out_proj\.(.+)", _ENCODER + r"blocks.\1.attn.proj.\2"),
        (r"backbone\.blocks\.(\d+)\.TransformerEncoderLayer\.linear([12])\.(.+)", _ENCODER + r"blocks.\1.mlp.fc\2.\3"),
        (r"backbone\.blocks\.(\d+)\.TransformerEncoderLayer\.(norm[12])\.(.+)", _ENCODER + r"blocks.\1.\2.\3"),
        (r"backbone\.blocks\.(\d+)\.((?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\..+)", _ENCODER + r"blocks.\1.\2"),
        (r"backbone\.(?:spm\.)?level_embed", "backbone.dense.prior.level_embed"),
        (r"backbone\.spm\.stem\.(.+)", r"backbone.dense.prior.stem.\1"),
        (r"backbone\.up\.(.+)", r"backbone.dense.up.\1"),
        (r"rpn_head\.rpn_conv\.(.+)", r"proposal_generator.rpn_head.conv.\1"),
        (r"rpn_head\.rpn_cls\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
        (r"rpn_head\.rpn_reg\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
        (r"neck\.lateral_convs\.(\d+)\.conv\.(.+)", r"backbone.pyramid.fpn.inner_blocks.\1.0.\2"),
        (r"neck\.fpn_convs\.(\d+)\.conv\.(.+)", r"backbone.pyramid.fpn.layer_blocks.\1.0.\2"),
        (r"roi_head\.bbox_head\.fc_cls\.(.+)", r"roi_heads.box_predictor.cls_score.\1"),
        (r"roi_head\.bbox_head\.fc_reg\.(.+)", r"roi_heads.box_predictor.bbox_pred.\1"),
        (r"roi_head\.mask_head\.upsample\.(.+)", r"roi_heads.mask_head.deconv.\1"),
        (r"roi_head\.mask_head\.conv_logits\.(.+)", r"roi_heads.mask_head.predictor.\1"),
    )
)
# The same for keys with a number that changes: (pattern, key with {0} for the number, what is added to the number).
_NUMBERED = tuple(
    (re.compile(pattern), target, shift)
    for pattern, target, shift in (
        (r"backbone\.spm\.conv(\d)\.(.+)", "backbone.dense.prior.stages.{0}.{1}", -2),
        (r"backbone\.spm\.fc([234])\.(.+)", "backbone.dense.prior.project.{0}.{1}", -2),
        (r"backbone\.norm(\d)\.(.+)", "backbone.dense.norms.p{0}.{1}", 1),
        (r"backbone\.selective_modules\.(\d+)\.norm\.(.+)", "backbone.dense.pruned.selectors.{0}.gate.layers.0.{1}", _FIRST_GATE),
        (r"backbone\.selective_modules\.(\d+)\.mlp\.fc1\.(.+)", "backbone.dense.pruned.selectors.{0}.gate.layers.1.{1}", _FIRST_GATE),
        (r"backbone\.selective_modules\.(\d+)\.mlp\.fc2\.(.+)", "backbone.dense.pruned.selectors.{0}.gate.layers.3.{1}", _FIRST_GATE),
        (r"roi_head\.bbox_head\.shared_fcs\.(\d+)\.(.+)", "roi_heads.box_head.fc{0}.{1}", 1),
        (r"roi_head\.mask_head\.convs\.(\d+)\.conv\.(.+)", "roi_heads.mask_head.mask_fcn{0}.{1}", 1),
    )
)
_INJECTOR = re.compile(r"backbone\.interactions\.(\d+)\.injector\.(.+)")
_EXTRACTOR = re.compile(r"backbone\.interactions\.(\d+)\.(?:extractor|extra_extractors\.(\d+))\.(.+)")
# Names inside injectors and extractors.
_INSIDE = (
    ("feat_norm.", "feature_norm."),
    ("attn.sampling_offsets.", "attention.offsets."),
    ("attn.attention_weights.", "attention.weights."),
    ("attn.value_proj.", "attention.values."),
    ("attn.output_proj.", "attention.output."),
    ("ffn.dwconv.dwconv.", "ffn.depthwise."),
)


@register("layout", "mmdet")
class Mmdet(Layout):
    """mmdetection's Mask R-CNN over a ViT-Adapter-T, -S or -B without windows, with or without SViT's gates."""

    name = "mmdet"
    task = "detection"

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell by the adapter and mmdetection's names of heads."""
        return "backbone.interactions.0.injector.gamma" in state and any(key.startswith(("rpn_head.", "roi_head.")) for key in state)

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """See `Layout.convert`."""
        _refuse(release)
        renamed = {key: renamed_key(key) for key in release.state}
        left_over = [key for key, ours in renamed.items() if ours is None]
        if left_over:
            raise CheckpointMismatch(
                f"checkpoint {release.name}: {len(left_over)} keys have no place in a Mask R-CNN over a ViT-Adapter:"
                f" {', '.join(left_over)}; allowed are the files of SViT's detectors, dense and pruned"
            )
        state = {ours: release.state[key] for key, ours in renamed.items() if ours is not None}
        state[_ENCODER + "pos_embed"] = _without_class_token(state[_ENCODER + "pos_embed"])
        gates = sorted({int(key.split(".")[4]) for key in state if key.startswith("backbone.dense.pruned.selectors.")})
        settings: dict[str, Any] = {"task": _task(release.state), "backbone": _backbone(release.state, bool(gates)), "cls": "learned"}
        if gates:
            settings |= {
                "selector": {"name": "svit", "calibration_images": 0},
                "treatment": {"name": "reactivate"},
                "schedule": {"name": "every_block", "start": gates[0]},
            }
            state |= {
                f"backbone.dense.pruned.selectors.{block}.threshold": state[_ENCODER + "pos_embed"].new_tensor(0.5) for block in gates
            }
        notes = ("gates keep a token where its first logit is the greater one",) if gates else ()
        classes = len(release.state["roi_head.bbox_head.fc_cls.weight"]) - 1
        return Imported(settings, state, classes, view={"short_side": 800, "long_side": 1333}, notes=notes)


def renamed_key(key: str) -> str | None:
    """Return our key of one of the authors'; None if it has no place in our model."""
    for pattern, target in _RENAMES:
        if found := pattern.fullmatch(key):
            return found.expand(target)
    for pattern, target, shift in _NUMBERED:
        if found := pattern.fullmatch(key):
            return target.format(int(found[1]) + shift, found[2])
    if key.startswith("backbone.spm.fc1."):
        return key.replace("backbone.spm.fc1.", "backbone.dense.prior.finest.")
    if found := _INJECTOR.fullmatch(key):
        return f"backbone.dense.injectors.{found[1]}.{_inside(found[2])}"
    if found := _EXTRACTOR.fullmatch(key):
        place = 0 if found[2] is None else int(found[2]) + 1
        return f"backbone.dense.extractors.{found[1]}.{place}.{_inside(found[3])}"
    return None


def _inside(rest: str) -> str:
    for theirs, ours in _INSIDE:
        if rest.startswith(theirs):
            return ours + rest.removeprefix(theirs)
    return rest


def _without_class_token(codes: Tensor) -> Tensor:
    side = round((codes.shape[1] - 1) ** 0.5)
    return codes[:, 1:] if side * side == codes.shape[1] - 1 else codes


# Keys whose shapes say the sizes of the model.
_SHAPED = {
    "patch": "backbone.patch_embed.proj.weight",
    "codes": "backbone.pos_embed",
    "stem": "backbone.spm.stem.0.weight",
    "reads": "backbone.interactions.0.injector.attn.attention_weights.weight",
    "values": "backbone.interactions.0.injector.attn.value_proj.weight",
    "ffn": "backbone.interactions.0.extractor.ffn.fc1.weight",
    "level": "neck.fpn_convs.0.conv.weight",
    "box": "roi_head.bbox_head.shared_fcs.0.weight",
    "box2": "roi_head.bbox_head.shared_fcs.1.weight",
    "classes": "roi_head.bbox_head.fc_cls.weight",
    "mask": "roi_head.mask_head.convs.0.conv.weight",
    "masks": "roi_head.mask_head.conv_logits.weight",
}


def _refuse(release: Release) -> None:
    """Refuse files of relatives that our model does not compute."""
    reason = ""
    state, types = release.state, re.findall(r"type=['\"](\w+)", str(release.meta.get("config", "")))
    merging = re.search(r"(?i)(?<![a-z])(atc|tome)(?![a-z])", release.name) or re.search("ATC|ToMe|TOME", " ".join(types))
    if any(re.fullmatch(r"backbone\.blocks\.\d+\.gamma[12]", key) for key in state):
        reason = (
            "it is of the ViT-Adapter of its first authors (blocks have gamma1 and gamma2), whose blocks attend inside windows of"
            " 14 x 14 tokens but for blocks 2, 5, 8 and 11. Windows together with an adapter are not built here; allowed: SViT's files,"
            " whose blocks are all global"
        )
    elif merging:
        reason = (
            f"its name or its configuration says {merging[0]}. That detector undoes its merging before each injector, injects at all"
            " positions and merges again by a weighted mean; our adapter injects at the place of each merged token. Allowed: SViT's files"
        )
    elif missing := [key for key in _SHAPED.values() if key not in state]:
        reason = (
            f"keys are missing that its sizes are read from: {', '.join(missing)}. Allowed: a Mask R-CNN with one box head and a mask head"
        )
    if reason:
        raise CheckpointMismatch(f"checkpoint {release.name} (layout mmdet) cannot be imported: {reason}")


def _backbone(state: Mapping[str, Tensor], gated: bool) -> dict[str, Any]:
    """Return the `backbone` group, as the shapes say it."""
    shapes = {name: tuple(state[key].shape) for name, key in _SHAPED.items()}
    dim, patch = shapes["patch"][0], shapes["patch"][-1]
    hidden = "backbone.blocks.0.TransformerEncoderLayer.linear1.weight" if gated else "backbone.blocks.0.mlp.fc1.weight"
    adapter = {
        "conv_dim": shapes["stem"][0],
        "heads": shapes["reads"][0] // (_LEVELS * _POINTS),
        "points": _POINTS,
        "ratio": shapes["values"][0] / dim,
        "ffn_ratio": shapes["ffn"][0] / dim,
    }
    return {
        "name": "vit_adapter",
        "img_size": patch * round((shapes["codes"][1] - 1) ** 0.5),
        "patch_size": patch,
        "embed_dim": dim,
        "depth": 1 + max(int(key.split(".")[2]) for key in state if key.startswith("backbone.blocks.")),
        "num_heads": dim // _HEAD_WIDTH,
        "mlp_ratio": state[hidden].shape[0] / dim,
        "class_token": False,
        "adapter": adapter,
        "pos_resample": "bicubic",
        **({"norm_eps": _SVIT_EPS} if gated else {}),
    }


def _task(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `task` group: mmdetection's settings, and the sizes of the heads."""
    shapes = {name: tuple(state[key].shape) for name, key in _SHAPED.items()}
    widths = {"box_fc": [shapes["box"][0], shapes["box2"][0]], "mask_dim": shapes["mask"][0]}
    convs = sum(bool(re.fullmatch(r"roi_head\.mask_head\.convs\.\d+\.conv\.weight", key)) for key in state)
    pyramid = {"scales": [4.0, 2.0, 1.0, 0.5], "channels": shapes["level"][0], "top_level": True}
    return {"name": "detection", "detector": "mask", "pyramid": pyramid, "heads": {**_HEADS, **widths, "mask_convs": convs}}
