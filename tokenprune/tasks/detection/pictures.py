"""Shows validation pictures as a detector saw them: the tokens that it used and the objects that it found."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from detectron2.structures import Instances as D2Instances

from tokenprune.data.base import DetectionData
from tokenprune.measure.usage import record
from tokenprune.tasks.detection.loader import Resize, resized, test_input
from tokenprune.tasks.detection.model import PrunedRCNN
from tokenprune.tasks.pictures import Picture, Predictions, cropped


def pictures(detector: PrunedRCNN, data: DetectionData, numbers: Iterable[int], resize: Resize, predict: bool) -> Iterator[Picture]:
    """Run `detector`, which must be in eval mode, on pictures one by one; without `predict` on its backbone only.

    Boxes and masks have the size of the resized picture, so that they lie over its cells.
    """
    for number in numbers:
        source = test_input(data[number], resize)
        height, width = source["image"].shape[1:]
        found = None
        with torch.no_grad(), record(detector) as seen:
            if predict:
                found = _predictions(detector([{**source, "height": height, "width": width}])[0]["instances"].to("cpu"))
            else:
                detector.backbone(detector.preprocess_image([source]).tensor)
        patch = detector.pruned.patch_size
        pixels = source["image"].permute(1, 2, 0).numpy()
        truth = resized(data[number], resize)
        known = Predictions(truth.boxes.astype(float), np.ones(len(truth)), truth.masks)
        yield Picture(number, pixels, cropped(seen.images[0], patch, height, width), patch, found, known)


def _predictions(instances: D2Instances) -> Predictions:
    masks = instances.pred_masks.numpy().astype(bool).reshape(-1, *instances.image_size)
    return Predictions(instances.pred_boxes.tensor.numpy().astype(float), np.asarray(instances.scores), masks)
