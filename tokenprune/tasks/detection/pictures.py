"""Shows validation pictures as a detector saw them: the tokens that it used and the objects that it found."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from detectron2.structures import Instances as D2Instances

from tokenprune.data.base import DetectionData, Sample, empty_instances
from tokenprune.measure.macs import encoder_cost
from tokenprune.measure.usage import record
from tokenprune.tasks.detection.loader import Resize, resized, test_input
from tokenprune.tasks.detection.model import PrunedRCNN
from tokenprune.tasks.pictures import Picture, Predictions, cropped, traced


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


@torch.no_grad()
def looked(detector: PrunedRCNN, image: np.ndarray, resize: Resize, names: Sequence[str], number: int) -> Picture:
    """Return a picture of any size as `detector` in eval mode sees it, with owners, tokens, GMAC and the objects found by name.

    Args:
        detector: The detector.
        image: RGB pixels, (h,w,3) uint8.
        resize: The size of a test.
        names: Names of the classes; () where they are not known.
        number: Number of the picture.
    """
    source = test_input(Sample(image, number, empty_instances(*image.shape[:2])), resize)
    height, width = source["image"].shape[1:]
    with record(detector, owners=True) as seen:
        instances = detector([{**source, "height": height, "width": width}])[0]["instances"].to("cpu")
    cost = encoder_cost(detector.backbone.dense, [detector.preprocess_image([source]).tensor])
    called = tuple(names[k] if k < len(names) else f"class {k}" for k in instances.pred_classes.tolist())
    patch, pixels = detector.pruned.patch_size, source["image"].permute(1, 2, 0).numpy()
    trace, gmac = traced(seen.images[0], patch, height, width), (cost["gmac_linear"], cost["gmac_total"])
    return Picture(number, pixels, patch=patch, predictions=_predictions(instances, called), gmac=gmac, **trace)


def _predictions(instances: D2Instances, names: tuple[str, ...] = ()) -> Predictions:
    masks = instances.pred_masks.numpy().astype(bool).reshape(-1, *instances.image_size)
    return Predictions(instances.pred_boxes.tensor.numpy().astype(float), np.asarray(instances.scores), masks, names)
