"""How EVA-02 turns predictions into results: linear soft-NMS in the place of NMS, scores that heed how sure a mask is. Off by default."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou

from tokenprune.tasks.detection.settings import HeadsConfig

SURE = 0.5  # mask probability from which a cell is foreground


def soft_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float, least: float, most: int) -> tuple[Tensor, Tensor]:
    """Linear soft-NMS (Bodla et al., 2017), each class by itself: the best box lowers others that overlap it by `iou` or more to 1 - IoU.

    Args:
        boxes: (R,4) XYXY. scores, classes: (R,).
        iou: overlap above which a score is multiplied by 1 - overlap.
        least: boxes whose score is not above it are no results. most: number of results, the best.

    Returns:
        indices (K,) of the results, best first, and their new scores (K,).
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
    """Return the mean probability of the foreground of masks (R,1,h,w), (R,); 0 where there is none."""
    sure = (masks > SURE).to(masks.dtype)
    return (masks * sure).flatten(1).sum(1) / sure.flatten(1).sum(1).clamp(min=1)


class _Scored:
    """In front of Detectron2's RoI heads: soft-NMS over all that the box head finds, scores times `maskness`; `settings` is set on it."""

    settings = HeadsConfig()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result row must say of how it is judged."""
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
        """Return the instances with masks, and scores that heed them."""
        instances = super().forward_with_given_boxes(features, instances)
        for found in instances if self.settings.mask_scoring else ():
            found.scores = found.scores * maskness(found.pred_masks).to(found.scores.dtype)
        return instances


class ScoredHeads(_Scored, StandardROIHeads):
    """Mask R-CNN's heads."""


class ScoredCascade(_Scored, CascadeROIHeads):
    """Cascade Mask R-CNN's heads."""
