"""A detector small enough for a test, configured as a run is; everything that needs it skips without Detectron2."""

import copy

import pytest

CONFIG = {
    "selector": {"name": "none"}, "treatment": {"name": "none"}, "schedule": {"name": "none"},
    "cls": "learned", "execution": "auto", "losses": {}, "seed": 0,
    "backbone": {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3},
    "task": {
        "name": "detection", "detector": "mask", "pyramid": {"scales": [2], "channels": 16, "top_level": False},
        "heads": {"anchor_sizes": [[8, 16, 32]], "rpn_samples": 32, "pre_nms": [100, 50], "post_nms": [30, 20], "roi_samples": 8,
                  "box_fc": [32], "mask_pool": 7, "mask_convs": 1, "mask_dim": 16, "detections": 8},
        "evaluate": {"cost_images": 2, "speed_images": 2, "bootstrap": 5},
    },
    "data": {"name": "shapes", "side": 64, "train_size": 8, "val_size": 4, "seed": 0},
    "training": {"batch_size": 2, "seed": 0},
}  # fmt: skip
SVIT = {
    "selector": {"name": "svit"}, "treatment": {"name": "preserve"}, "losses": {"ratio": {"weight": 4.0}},
    "schedule": {"name": "stages", "blocks": [1, 2], "keep_rate": 0.7},
}  # fmt: skip


@pytest.fixture
def config():
    """A fresh configuration, with changes by group: config(task={...}, backbone={...})."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")

    def make(**changes):
        cfg = copy.deepcopy(CONFIG)
        for group, values in changes.items():
            cfg[group] = values if group in ("selector", "treatment", "schedule", "losses", "cls") else {**cfg[group], **values}
        return cfg

    return make


@pytest.fixture
def svit():
    """The axes of a gated method with a ratio loss."""
    return copy.deepcopy(SVIT)
