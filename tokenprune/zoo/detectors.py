"""Settings that keys and shapes of published detectors do not say: of Mask and Cascade Mask R-CNN, where their authors agree."""

from typing import Any

HEADS: dict[str, Any] = {
    "anchor_sizes": [[32.0], [64.0], [128.0], [256.0], [512.0]],
    "anchor_ratios": [0.5, 1.0, 2.0],
    "anchor_offset": 0.0,
    "rpn_ious": [0.3, 0.7],
    "rpn_samples": 256,
    "rpn_positive": 0.5,
    "rpn_nms": 0.7,
    "pre_nms": [2000, 1000],
    "post_nms": [1000, 1000],
    "roi_samples": 512,
    "roi_positive": 0.25,
    "sampling": 0,
    "box_pool": 7,
    "mask_pool": 14,
    "agnostic_masks": False,
    "score": 0.05,
    "nms": 0.5,
    "detections": 100,
}
