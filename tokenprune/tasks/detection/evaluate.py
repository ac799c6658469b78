"""Evaluates a detector on a data set: detections as COCO records, box and mask AP, the encoder's cost, seconds an image."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances as D2Instances
from torch import Tensor, nn

from tokenprune.data.base import DetectionData
from tokenprune.errors import DatasetError
from tokenprune.measure.resamples import Resampled, draws_of, mean_of
from tokenprune.measure.speed import SpeedPlan, seconds_per_image
from tokenprune.tasks.detection.coco_ap import draws, score
from tokenprune.tasks.detection.loader import Resize, test_input
from tokenprune.tasks.detection.model import PrunedRCNN
from tokenprune.tasks.detection.settings import EvaluateConfig
from tokenprune.tasks.draws import over_draws
from tokenprune.utils.console import progress
from tokenprune.utils.finite import check_finite, outputs_of
from tokenprune.utils.modes import evaluating

_SURE = 5.0  # logits that `busy` adds for its class: p > 0.99


class Judged(NamedTuple):
    """Holds what was found of detections.

    Attributes:
        metrics: ap_box, ap50_box, ap75_box, ap_small_box, ..., ap_box_se and the same for `mask`, in points 0..100.
        resampled: ap_box and ap_mask over resamples of the pictures; None without resamples.
    """

    metrics: dict[str, float]
    resampled: Resampled | None


def evaluate(detector: PrunedRCNN, data: DetectionData, cfg: EvaluateConfig, resize: Resize) -> Judged:
    """Detect on every image of `data` and judge on exactly these.

    Gates that are drawn are drawn as often as the detector's view says. Every number is then the mean over the draws, and the metrics also
    hold ap_box_spread and ap_mask_spread: the standard deviation of AP from draw to draw.

    Raises:
        DatasetError: There is no object to find.
    """
    if all(annotation.get("iscrowd") for annotation in data.coco_json()["annotations"]):
        raise DatasetError(
            f"the {len(data)} pictures of val have no object (crowds do not count), so that there is no AP; raise data.max_val, or give"
            " annotations with objects"
        )
    selectors = list(detector.pruned.selectors.values())
    resampled: list[Resampled] = []

    def judged() -> dict[str, float]:
        found = judge(data, detect(detector, data, cfg.batch_size, resize), cfg)
        resampled.extend([] if found.resampled is None else [found.resampled])
        return found.metrics

    metrics = over_draws(selectors, detector.view.draws or 1, judged, ("ap_box", "ap_mask"))
    return Judged(metrics, mean_of(resampled) if resampled else None)


def judge(data: DetectionData, results: Sequence[dict[str, Any]], cfg: EvaluateConfig) -> Judged:
    """Return box and mask AP of COCO result records; `evaluate` calls this after detecting."""
    metrics, resampled, truth = {}, {}, data.coco_json()
    for kind, suffix in (("bbox", "box"), ("segm", "mask")):
        values, aps = score(truth, results, kind, cfg.max_detections, cfg.limits, cfg.bootstrap)
        spread = values.pop("ap_se", None)
        metrics.update({f"{name}_{suffix}": v for name, v in values.items()})
        if spread is not None:
            metrics[f"ap_{suffix}_se"] = spread
        resampled[f"ap_{suffix}"] = torch.from_numpy(aps)
    return Judged(metrics, Resampled(resampled, len(truth["images"]), _draws(truth, cfg.bootstrap)) if cfg.bootstrap else None)


def _draws(truth: Mapping[str, Any], bootstrap: int) -> int:
    """Return the number that evaluations on the same pictures, objects and resamples share."""
    images = sorted(image["id"] for image in truth["images"])
    objects = [(a["image_id"], a["category_id"], *a["bbox"]) for a in truth["annotations"]]
    return draws_of(np.array(images).tobytes(), np.array(objects, float).tobytes(), draws(len(images), bootstrap).tobytes())


@torch.no_grad()
def detect(detector: PrunedRCNN, data: DetectionData, batch_size: int, resize: Resize) -> list[dict[str, Any]]:
    """Return COCO result records of all images, at their original sizes, whatever the batch size; the detector's modes are restored.

    Raises:
        Diverged: Features or predictions are NaN or infinite. Detectron2 would drop such boxes without a word.
    """
    results = []
    with evaluating(detector), detector.precision(), outputs_of(_judged(detector)) as seen:
        for inputs in _batches(data, batch_size, resize):
            outputs = detector(inputs)
            check_finite(seen, detector, partial(detector, inputs))
            seen.clear()
            for record, output in zip(inputs, outputs, strict=True):
                results += coco_records(output["instances"].to("cpu"), record["image_id"], data.category_ids)
    return results


def _judged(detector: PrunedRCNN) -> list[nn.Module]:
    """Return the modules whose outputs must be finite: the backbone, and every layer of the heads."""
    heads = [module for part in (detector.proposal_generator, detector.roi_heads) for module in part.modules()]
    return [detector.backbone, *(head for head in heads if isinstance(head, nn.Linear | nn.Conv2d | nn.ConvTranspose2d))]


def _batches(data: DetectionData, size: int, resize: Resize) -> Iterator[list[dict[str, Any]]]:
    """Yield inputs of at most `size` pictures of equal shape. Padding to a common shape would change what a ViT detects in a picture."""
    batch: list[dict[str, Any]] = []
    for i in progress(range(len(data)), "evaluation"):
        record = test_input(data[i], resize)
        if batch and (len(batch) == size or record["image"].shape != batch[0]["image"].shape):
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def coco_records(instances: D2Instances, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return one image's predictions as COCO records: bbox XYWH in pixels, segmentation as compressed RLE, score, category id."""
    from pycocotools import mask as rle_tools

    boxes = instances.pred_boxes.tensor.numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    records = []
    for k, (label, value) in enumerate(zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)):
        record = {"image_id": image_id, "category_id": category_ids[label], "bbox": boxes[k].tolist(), "score": value}
        if masks is not None:
            record["segmentation"] = rle_tools.encode(np.asfortranarray(masks[k], dtype=np.uint8))
        records.append(record)
    return records


def encoder_images(detector: PrunedRCNN, data: DetectionData, count: int, resize: Resize, batch: int = 1) -> Iterator[Tensor]:
    """Yield the first `count` images as the encoder sees them: normalised, padded, (batch,3,H,W)."""
    count = min(count, len(data))
    for start in range(0, count, batch):
        yield detector.preprocess_image([test_input(data[i], resize) for i in range(start, min(start + batch, count))]).tensor


def measure_speed(detector: PrunedRCNN, inputs: Sequence[dict[str, Any]], cfg: EvaluateConfig) -> dict[str, Any]:
    """Measure seconds an image of the encoder, of the backbone (feature pyramid included) and of the whole detector.

    The whole detector pastes its masks at full size.

    Args:
        detector: The detector.
        inputs: Detectron2 inputs as `test_input` makes them, each a batch of its own.
        cfg: Gives speed_warmup, speed_repeats, speed_dtype and speed_busy.

    Returns:
        seconds_encoder, seconds_backbone, seconds_total, speedup_encoder, seconds_note.
    """
    pairs = [(detector.preprocess_image([record]).tensor, record) for record in inputs]
    plan = SpeedPlan(cfg.speed_warmup, cfg.speed_repeats, cfg.speed_dtype)
    maps, alone = detector.backbone, detector.backbone.dense.encoder_alone
    with evaluating(detector), busy(detector) if cfg.speed_busy else nullcontext():
        times = seconds_per_image(detector.pruned, lambda record: detector([record]), pairs, detector.device, maps, plan, alone)
    if cfg.speed_busy:
        times["seconds_note"] += ", the box head made to find objects everywhere"
    return times


@contextmanager
def busy(detector: nn.Module) -> Iterator[None]:
    """Make every proposal an object of the first class inside the body, whatever the weights say.

    The mask head then gets its full number of objects.
    """
    layers = [m.cls_score for m in detector.modules() if isinstance(m, FastRCNNOutputLayers)]
    before = [layer.bias.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.bias[0] += math.log(len(layer.bias)) + _SURE
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, bias in zip(layers, before, strict=True):
                layer.bias.copy_(bias)
