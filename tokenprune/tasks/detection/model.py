"""Builds Detectron2's Mask R-CNN and Cascade Mask R-CNN over a pruned ViT (on Detectron2 0.6 and on its main branch)."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from tokenprune.backbones.features import build_features
from tokenprune.backbones.maps import EncoderMaps
from tokenprune.backbones.pyramid import ChannelNorm
from tokenprune.measure.speed import precision
from tokenprune.tasks.detection.conventions import OWN, ViewConfig, notes_of, resolved
from tokenprune.tasks.detection.released import BothSides, OriginalPixels, SigmoidRPN, factors_of, finished
from tokenprune.tasks.detection.scoring import ScoredCascade, ScoredHeads
from tokenprune.tasks.detection.settings import DetectionConfig, HeadsConfig
from tokenprune.tasks.detection.weights import adopted
from tokenprune.tasks.pixels import IMAGE_MEAN, IMAGE_STD

# Box regression weights of the stages of Cascade R-CNN; the first is also Mask R-CNN's.
_STAGE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class PrunedBackbone(Backbone):
    """Fulfils Detectron2's backbone contract over a pruned encoder: images (B,3,H,W) -> {"p2": (B,C,H/4,W/4), ...}.

    Args:
        dense: Images -> maps; the first module of `build_features`.
        pyramid: Maps -> levels, with `strides`, `channels` and `top`; the second module of `build_features`.
    """

    def __init__(self, dense: EncoderMaps, pyramid: nn.Module) -> None:
        """Take over the two modules."""
        super().__init__()
        self.dense, self.pyramid = dense, pyramid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels. H and W must be multiples of `size_divisibility`; Detectron2 pads to it."""
        return self.pyramid(self.dense(images))

    @property
    def size_divisibility(self) -> int:
        """Return a multiple of the maps' own divisor and of every stride but that of the subsampled top level."""
        strides = [s for name, s in self.pyramid.strides.items() if name != self.pyramid.top]
        return max(self.dense.divisor, *strides)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Return the constraints that Detectron2's main branch reads; 0.6 reads only `size_divisibility`."""
        return {"size_divisibility": self.size_divisibility, "square_size": 0}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return the channels and stride of each level."""
        return {name: ShapeSpec(channels=self.pyramid.channels, stride=s) for name, s in self.pyramid.strides.items()}


class PrunedRCNN(GeneralizedRCNN):
    """Adds the encoder's own losses to GeneralizedRCNN, which has no place for them in 0.6 or main."""

    @property
    def pruned(self) -> nn.Module:
        """Return the PrunedViT inside."""
        return self.backbone.dense.pruned

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses by name in training, with the encoder's as `loss_<name>`, else one {"instances": ...} an image, as Detectron2."""
        with _event_storage():
            result = super().forward(batched_inputs)
        if self.training:
            own = self.backbone.dense.losses(presence=self._presence(batched_inputs), **self._foreground(batched_inputs))
            result.update({k if k.startswith("loss_") else f"loss_{k}": v for k, v in own.items()})
        return result

    view = resolved(ViewConfig(), OWN)  # conventions of evaluation

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes that a result row needs on the scoring of its results and on the conventions of its evaluation."""
        draws = any(selector.draws for selector in self.pruned.selectors.values())
        return (*self.roi_heads.notes, *notes_of(self.view, draws))

    def precision(self) -> AbstractContextManager[Any]:
        """Return a context in which the detector is evaluated in the precision of its view."""
        return precision(self.device, self.view.dtype)

    def inference(self, batched_inputs: list[dict[str, Any]], detected_instances: Any = None, do_postprocess: bool = True) -> Any:
        """Return detections as Detectron2 does, or as mmdetection does if the view says so."""
        if self.view.nms == "input" or detected_instances is not None:
            return super().inference(batched_inputs, detected_instances, do_postprocess)
        self.roi_heads.box_predictor.factors = factors_of(batched_inputs)
        found = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return found
        return [{"instances": finished(one, record)} for one, record in zip(found, batched_inputs, strict=True)]

    def adopt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a related detector in this one's form, see `weights.adopted`."""
        return adopted(state, self)

    def _foreground(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return {"foreground": the share of each grid position that objects cover, (B,N)}; {} if no loss asks for it."""
        pruned, outputs = self.pruned, self.backbone.dense.last_outputs
        if not any("foreground" in term.needs for term in pruned.loss_terms.values()):
            return {}
        rows, columns = outputs.grid
        found = torch.zeros(len(inputs), 1, rows * pruned.patch_size, columns * pruned.patch_size, device=self.device)
        for picture, record in zip(found, inputs, strict=True):
            masks = record["instances"].gt_masks.tensor
            picture[0, : masks.shape[1], : masks.shape[2]] = masks.any(0)
        return {"foreground": F.avg_pool2d(found, pruned.patch_size).flatten(1)}

    def _presence(self, inputs: list[dict[str, Any]]) -> Tensor:
        """Return the classes that each training picture holds, (B,K) 0/1: Cropr's multi-label target (section 3.2)."""
        found = torch.zeros(len(inputs), self.roi_heads.num_classes, device=self.device)
        for row, record in zip(found, inputs, strict=True):
            row[record["instances"].gt_classes.to(self.device)] = 1.0
        return found


def build_detector(cfg: DetectionConfig, pruned: nn.Module, num_classes: int, backbone: Mapping[str, Any]) -> PrunedRCNN:
    """Assemble the detector.

    Args:
        cfg: The task's settings; `detector` is "mask" or "cascade".
        pruned: The PrunedViT; its parameters appear under `backbone.dense.pruned.`.
        num_classes: Number of object classes, without the background.
        backbone: The `backbone` group, which says whether the encoder has an adapter.

    Raises:
        InvalidConfig: The encoder's patch size or depth does not allow the pyramid scales or the adapter.
    """
    levels = cfg.pyramid
    features = PrunedBackbone(*build_features(pruned, backbone, levels.scales, levels.channels, levels.top_level))
    shapes = features.output_shape()
    # RoIs come from the other levels; the top level only serves the RPN, as in FPN.
    pooled = [name for name in shapes if name != features.pyramid.top]
    detector = PrunedRCNN(
        backbone=features,
        proposal_generator=_rpn(cfg, shapes),
        roi_heads=_roi_heads(cfg, {name: shapes[name] for name in pooled}, num_classes),
        pixel_mean=list(IMAGE_MEAN),
        pixel_std=list(IMAGE_STD),
        input_format="RGB",
    )
    detector.view = cfg.conventions
    return detector


def _rpn(task: DetectionConfig, shapes: dict[str, ShapeSpec]) -> RPN:
    cfg = task.heads
    channels = next(iter(shapes.values())).channels
    anchors = DefaultAnchorGenerator(
        sizes=[list(s) for s in cfg.anchor_sizes],
        aspect_ratios=[list(cfg.anchor_ratios)],
        strides=[s.stride for s in shapes.values()],
        offset=cfg.anchor_offset,
    )
    kind = SigmoidRPN if task.conventions.rpn_scores == "sigmoid" else RPN
    return kind(
        in_features=list(shapes),
        head=StandardRPNHead(in_channels=channels, num_anchors=anchors.num_anchors[0], conv_dims=[-1] * cfg.rpn_convs),
        anchor_generator=anchors,
        anchor_matcher=Matcher(list(cfg.rpn_ious), [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=_transform(task, (1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=cfg.rpn_samples,
        positive_fraction=cfg.rpn_positive,
        pre_nms_topk=cfg.pre_nms,
        post_nms_topk=cfg.post_nms,
        nms_thresh=cfg.rpn_nms,
    )


def _roi_heads(cfg: DetectionConfig, shapes: dict[str, ShapeSpec], num_classes: int) -> StandardROIHeads:
    built = _plain_heads(cfg, shapes, num_classes)
    built.settings = cfg.heads
    return built


def _plain_heads(cfg: DetectionConfig, shapes: dict[str, ShapeSpec], num_classes: int) -> StandardROIHeads:
    heads, names = cfg.heads, list(shapes)
    scales, channels = [1 / s.stride for s in shapes.values()], shapes[names[0]].channels
    common = {
        "num_classes": num_classes,
        "batch_size_per_image": heads.roi_samples,
        "positive_fraction": heads.roi_positive,
        "box_in_features": names,
        "box_pooler": _pooler(heads.box_pool, scales, heads),
        "mask_in_features": names,
        "mask_pooler": _pooler(heads.mask_pool, scales, heads),
        "mask_head": _mask_head(heads, channels, num_classes),
    }
    if cfg.detector == "mask":
        box = _box_head(heads, channels)
        predictor = _predictor(cfg, box.output_shape, num_classes, _STAGE_WEIGHTS[0], heads.agnostic_boxes)
        matcher = Matcher([heads.roi_iou], [0, 1], allow_low_quality_matches=False)
        return ScoredHeads(box_head=box, box_predictor=predictor, proposal_matcher=matcher, **common)
    boxes = [_box_head(heads, channels) for _ in _STAGE_WEIGHTS]
    return ScoredCascade(
        box_heads=boxes,
        box_predictors=[_predictor(cfg, b.output_shape, num_classes, w, True) for b, w in zip(boxes, _STAGE_WEIGHTS, strict=True)],
        proposal_matchers=[Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in heads.cascade_ious],
        **common,
    )


def _pooler(size: int, scales: list[float], cfg: HeadsConfig) -> ROIPooler:
    return ROIPooler(output_size=size, scales=scales, sampling_ratio=cfg.sampling, pooler_type="ROIAlignV2")


def _box_head(cfg: HeadsConfig, channels: int) -> FastRCNNConvFCHead:
    shape = ShapeSpec(channels=channels, height=cfg.box_pool, width=cfg.box_pool)
    return FastRCNNConvFCHead(shape, conv_dims=[channels] * cfg.box_convs, fc_dims=list(cfg.box_fc), conv_norm=_norm(cfg))


def _transform(cfg: DetectionConfig, weights: tuple[float, ...]) -> Box2BoxTransform:
    return (BothSides if cfg.conventions.clamp == "both" else Box2BoxTransform)(weights=weights)


def _predictor(
    task: DetectionConfig, shape: ShapeSpec, num_classes: int, weights: tuple[float, ...], agnostic: bool
) -> FastRCNNOutputLayers:
    cfg = task.heads
    soft = cfg.soft_nms is not None  # soft-NMS needs all boxes
    kind = OriginalPixels if task.conventions.nms == "original" else FastRCNNOutputLayers
    return kind(
        shape,
        box2box_transform=_transform(task, weights),
        num_classes=num_classes,
        test_score_thresh=cfg.score,
        test_nms_thresh=1.0 if soft else cfg.nms,
        test_topk_per_image=-1 if soft else cfg.detections,
        cls_agnostic_bbox_reg=agnostic,
    )


def _mask_head(cfg: HeadsConfig, channels: int, num_classes: int) -> MaskRCNNConvUpsampleHead:
    return MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=channels, height=cfg.mask_pool, width=cfg.mask_pool),
        num_classes=1 if cfg.agnostic_masks else num_classes,
        conv_dims=[cfg.mask_dim] * (cfg.mask_convs + 1),  # the last entry is the upsampling layer's
        conv_norm=_norm(cfg),
    )


def _norm(cfg: HeadsConfig) -> str | Callable[[int], nn.Module]:
    """Return the norm of the heads' convolutions. 0.6 does not know "LN" by name, but both versions take a callable."""
    return ChannelNorm if cfg.norm == "LN" else ""


def _event_storage() -> AbstractContextManager[Any]:
    """Return a store for statistics. Detectron2's heads write to a global one and fail without it; a caller's own store is kept."""
    try:
        get_event_storage()
    except AssertionError:
        return EventStorage(0)
    return nullcontext()


__all__ = ["PrunedBackbone", "PrunedRCNN", "build_detector"]
