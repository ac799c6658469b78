"""Computes boxes as mmdetection does where Detectron2 differs: clamps on both sides, order of proposals, NMS in original pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import Tensor

ORIGINAL = "original_boxes"  # field of detections: boxes in pixels of the original picture


class BothSides(Box2BoxTransform):
    """Clamps changes of width and height on both sides: by at most 1000/16 in either direction."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Return boxes (N,4k) that are moved by deltas (N,4k)."""
        clamped = deltas.float().clone()
        for place, weight in zip((2, 3), self.weights[2:], strict=True):
            clamped[:, place::4] = clamped[:, place::4].clamp(min=-self.scale_clamp * weight)
        return super().apply_deltas(clamped, boxes)


class SigmoidRPN(RPN):
    """Sorts proposals by their probability in evaluation: those that round to 1 keep no order among themselves."""

    def predict_proposals(self, anchors: Any, pred_objectness_logits: Any, pred_anchor_deltas: Any, image_sizes: Any) -> Any:
        """Return the proposals of each image, best first."""
        scores = pred_objectness_logits if self.training else [logits.float().sigmoid() for logits in pred_objectness_logits]
        return super().predict_proposals(anchors, scores, pred_anchor_deltas, image_sizes)


class OriginalPixels(FastRCNNOutputLayers):
    """Applies NMS to boxes in pixels of the original pictures, in single precision.

    Attributes:
        factors: Input pixels over original ones of each picture, (4,); none for pictures of their own size.
    """

    factors: Sequence[Tensor] = ()

    def inference(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[list[Instances], list[Tensor]]:
        """Return detections in input pixels, with their boxes in original ones as a field, and the rows of `predictions` they come from."""
        logits, deltas = (values.float() for values in predictions)
        with torch.autocast(logits.device.type, enabled=False):
            boxes, scores = self.predict_boxes((logits, deltas), proposals), self.predict_probs((logits, deltas), proposals)
        factors = self.factors or [box.new_ones(4) for box in boxes]
        found = [self._of_one(*given) for given in zip(boxes, scores, proposals, factors, strict=True)]
        return [detections for detections, _ in found], [rows for _, rows in found]

    def _of_one(self, boxes: Tensor, scores: Tensor, proposals: Instances, factor: Tensor) -> tuple[Instances, Tensor]:
        height, width = proposals.image_size
        inside = boxes.unflatten(1, (-1, 4)).clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        factor = factor.to(boxes)
        everywhere = (float("inf"), float("inf"))
        found, rows = fast_rcnn_inference_single_image(
            (inside / factor).flatten(1), scores, everywhere, self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image
        )
        result = Instances((height, width), **found.get_fields())
        result.set(ORIGINAL, Boxes(found.pred_boxes.tensor.clone()))
        result.pred_boxes = Boxes(found.pred_boxes.tensor * factor)
        return result, rows


def factors_of(inputs: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Return for each picture its input pixels over its original ones, x, y, x, y, as float32 numbers (4,)."""
    found = []
    for record in inputs:
        height, width = record["image"].shape[-2:]
        across, down = width / record.get("width", width), height / record.get("height", height)
        found.append(torch.tensor([across, down, across, down], dtype=torch.float32))
    return found


def finished(found: Instances, record: dict[str, Any]) -> Instances:
    """Return detections in pixels of the original picture, with masks of its size; none is clipped or dropped."""
    height, width = (record.get(name, side) for name, side in zip(("height", "width"), found.image_size, strict=True))
    result = Instances((height, width), pred_boxes=found.get(ORIGINAL), scores=found.scores, pred_classes=found.pred_classes)
    if found.has("pred_masks"):
        result.pred_masks = ROIMasks(found.pred_masks[:, 0]).to_bitmasks(result.pred_boxes, height, width, 0.5).tensor
    return result
