"""Turns predictions into results as EVA-02 does: linear soft-NMS in place of NMS, scores that depend on masks. Both are off by default."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou

from tokenprune.tasks.detection.settings import HeadsConfig

SURE = 0.5  # a cell is foreground above this mask probability


def soft_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float, least: float, most: int) -> tuple[Tensor, Tensor]:
    """Apply linear soft-NMS (Bodla et al., 2017) to each class by itself: the best box lowers the scores of boxes that overlap it.

    Args:
        boxes: Boxes XYXY, (R,4).
        scores: Scores, (R,).
        classes: Classes, (R,).
        iou: A score whose box overlaps by more than this is multiplied by 1 - overlap.
        least: Boxes whose score is not above this are no results.
        most: Number of results: the best ones.

    Returns:
        Indices (K,) of the results, best first, and their new scores (K,).
    """
    left, found, values = scores.clone(), [], []
    for _ in range(min(most, len(scores))):
        best = left.argmax()
        if not left[best] > least:
            break
        found.append(best)
        values.append(left[best].clone())
        overlap = box_iou(boxes[best : best + 1], boxes)[0]
        lowered = (overlap > iou) & (classes == classes[best])
        left = torch.where(lowered, left * (1 - overlap), left)
        left[best] = float("-inf")
    if not found:
        return classes.new_zeros(0, dtype=torch.long), scores.new_zeros(0)
    return torch.stack(found), torch.stack(values)


def maskness(masks: Tensor) -> Tensor:
    """Return the mean probability of the foreground of masks (R,1,h,w), (R,); 0 for a mask without foreground."""
    sure = (masks > SURE).to(masks.dtype)
    return (masks * sure).flatten(1).sum(1) / sure.flatten(1).sum(1).clamp(min=1)


class _Scored:
    """Adds soft-NMS over all boxes of the box head, and scores times `maskness`, to Detectron2's RoI heads; `settings` is set on it."""

    settings = HeadsConfig()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes that a result row needs on its scoring."""
        cfg = self.settings
        soft = f"linear soft-NMS from an IoU of {cfg.soft_nms:g}, score threshold {cfg.score:g}" if cfg.soft_nms is not None else ""
        return tuple(filter(None, (soft, "scores times the mean foreground probability of masks" if cfg.mask_scoring else "")))

    def _forward_box(self, features: Any, proposals: Any, *targets: Any) -> Any:
        found = super()._forward_box(features, proposals, *targets)
        if self.training or self.settings.soft_nms is None:
            return found
        return [self._softened(instances) for instances in found]

    def _softened(self, found: Instances) -> Instances:
        cfg, boxes = self.settings, found.pred_boxes.tensor
        kept, values = soft_nms(boxes, found.scores, found.pred_classes, cfg.soft_nms, cfg.score, cfg.detections)
        result = found[kept]
        result.scores = values
        return result

    def forward_with_given_boxes(self, features: Any, instances: Sequence[Instances]) -> Sequence[Instances]:
        """Return the instances with masks, and with scores that depend on these."""
        instances = super().forward_with_given_boxes(features, instances)
        for found in instances if self.settings.mask_scoring else ():
            found.scores = found.scores * maskness(found.pred_masks).to(found.scores.dtype)
        return instances


class ScoredHeads(_Scored, StandardROIHeads):
    """Adds the scoring to Mask R-CNN's heads."""


class ScoredCascade(_Scored, CascadeROIHeads):
    """Adds the scoring to Cascade Mask R-CNN's heads."""
