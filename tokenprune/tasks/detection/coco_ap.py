"""Computes COCO's average precision with pycocotools, silently, in points 0..100, and its bootstrap standard error over images."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_AREAS = ("all", "small", "medium", "large")


class Scored(NamedTuple):
    """Holds the judgement of results.

    Attributes:
        values: ap, ap50, ap75, ap_small, ap_medium, ap_large (and ap_se) in points. An area without any object is left out. Without
            results all are 0.
        resampled: AP in points over resamples of the images, (R,), NaN where a resample has no object; empty without resamples.
    """

    values: dict[str, float]
    resampled: np.ndarray


def score(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    kind: str,
    max_detections: int = 100,
    limits: tuple[float, float] = (32.0, 96.0),
    bootstrap: int = 0,
) -> Scored:
    """Judge results against exactly the images of `truth`.

    Args:
        truth: A COCO instances dictionary.
        results: COCO result records with "bbox" (XYWH), "segmentation" (RLE), "score".
        kind: "bbox" or "segm".
        max_detections: Number of results an image that count: the best ones.
        limits: Square roots of the areas (pixels) that separate small, medium and large.
        bootstrap: Resamples of images for "ap_se"; 0 leaves it out.
    """
    evaluation = match(truth, results, kind, max_detections, limits)
    precision = evaluation.eval["precision"][..., -1]  # (IoU thresholds, recalls, classes, areas)
    values = {
        "ap": _mean(precision[..., 0]),
        "ap50": _mean(precision[0, :, :, 0]),
        "ap75": _mean(precision[5, :, :, 0]),
        **{f"ap_{area}": _mean(precision[..., i]) for i, area in enumerate(_AREAS) if i},
    }
    resampled = np.empty(0)
    if bootstrap:
        resampled = resampled_aps(evaluation, draws(len(evaluation.params.imgIds), bootstrap))
        values["ap_se"] = standard_error(resampled)
    return Scored({name: round(100 * v, 6) for name, v in values.items() if v is not None}, 100 * resampled)


def match(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, max_detections: int, limits: tuple[float, float]) -> Any:
    """Run pycocotools' COCOeval (matching and accumulation) and return it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)  # pycocotools rewrites annotations in place
        gt.dataset.setdefault("info", {})
        gt.createIndex()
        evaluation = COCOeval(gt, _load(gt, results, kind), kind)
        small, large = limits[0] ** 2, limits[1] ** 2
        evaluation.params.maxDets = sorted({1, min(10, max_detections), max_detections})
        evaluation.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluation.params.areaRngLbl = list(_AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def draws(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Return how often each resample, with replacement, holds each image: (resamples, images), the images in the order of their ids."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_aps(evaluation: Any, weights: np.ndarray) -> np.ndarray:
    """Return AP[.5:.95] (a fraction) over resamples of the images (see `draws`), (R,); NaN where a resample has no object."""
    classes = _flatten(evaluation)
    aps = [resampled_ap(classes, counts, evaluation.params.recThrs) for counts in weights]
    return np.array([np.nan if ap is None else ap for ap in aps])


def standard_error(resampled: np.ndarray) -> float:
    """Return the standard deviation over resamples, 0 with fewer than two."""
    known = resampled[~np.isnan(resampled)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else 0.0


def resampled_ap(classes: list[dict[str, np.ndarray]], weights: np.ndarray, recalls: np.ndarray) -> float | None:
    """Return AP (a fraction) if image i counts `weights[i]` times. It is COCOeval's own rule, so all-one weights give its AP."""
    values = [_class_precision(c, weights, recalls) for c in classes]
    return _mean(np.stack(values)) if values else None


def _flatten(evaluation: Any) -> list[dict[str, np.ndarray]]:
    """Return the matches of each class over all images, best score first, area 'all'; done once and re-weighted for each resample."""
    params = evaluation.params
    images, areas, result = len(params.imgIds), len(params.areaRng), []
    for k in range(len(params.catIds)):
        first = k * areas * images
        found = [(i, e) for i, e in enumerate(evaluation.evalImgs[first : first + images]) if e is not None]
        positives = np.zeros(images)
        for i, e in found:
            positives[i] = np.count_nonzero(np.asarray(e["gtIgnore"]) == 0)
        if found:
            order = np.argsort(-np.concatenate([e["dtScores"] for _, e in found]), kind="mergesort")
            ignored = np.concatenate([e["dtIgnore"] for _, e in found], axis=1)[:, order].astype(bool)
            matched = np.concatenate([e["dtMatches"] for _, e in found], axis=1)[:, order] != 0
            owner = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in found]).astype(int)[order]
            result.append({"true": matched & ~ignored, "false": ~matched & ~ignored, "owner": owner, "positives": positives})
    return result


def _class_precision(matches: dict[str, np.ndarray], weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the precision (IoU thresholds, recalls) of one class; -1 if the resample holds no object of it."""
    true, positives = matches["true"], float(matches["positives"] @ weights)
    result = np.full((len(true), len(recalls)), -1.0 if positives == 0 else 0.0)
    if positives == 0 or true.shape[1] == 0:
        return result
    weight = weights[matches["owner"]]
    tp = np.cumsum(true * weight, axis=1, dtype=float)
    fp = np.cumsum(matches["false"] * weight, axis=1, dtype=float)
    precision = tp / (tp + fp + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for row, recall, values in zip(result, tp / positives, precision, strict=True):
        place = np.searchsorted(recall, recalls, side="left")
        reached = place < len(recall)
        row[reached] = values[place[reached]]
    return result


def _load(gt: Any, results: Sequence[dict[str, Any]], kind: str) -> Any:
    """Return results as a COCO index.

    pycocotools takes areas from "bbox" if a record has one, so masks are passed without it. An empty list would crash it.
    """
    from pycocotools.coco import COCO

    wanted = {"image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation"}
    records = [{k: v for k, v in r.items() if k in wanted} for r in results]
    if records:
        return gt.loadRes(records)
    empty = COCO()
    empty.dataset = {**gt.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: np.ndarray) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
