"""Defines semantic segmentation: Segmenter's linear head on every patch, cross-entropy over pixels, mIoU (Cropr sections 3.2 and 4.2)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.measure.macs import encoder_cost
from tokenprune.measure.miou import Confusion, mean_iou, pixel_accuracy, resampled_miou
from tokenprune.measure.speed import seconds_per_image
from tokenprune.measure.throughput import throughput
from tokenprune.measure.usage import record
from tokenprune.registry import register
from tokenprune.tasks.base import Task, chosen, device_of
from tokenprune.tasks.classification.task import classifier_of
from tokenprune.tasks.pictures import LabelMap, Picture, cropped, traced
from tokenprune.tasks.segmentation.images import Batch, LabelledPixels
from tokenprune.tasks.segmentation.model import Segmenter
from tokenprune.tasks.segmentation.settings import completed, read_segmentation
from tokenprune.tasks.segmentation.windows import labelled
from tokenprune.utils.console import progress, say_if, warn
from tokenprune.utils.finite import check_finite
from tokenprune.utils.modes import evaluating

if TYPE_CHECKING:
    import numpy as np

_GIGA = 1e9
_MUCH = 0.25  # share of ignored pixels from which on a warning is due; void takes 3 to 10 % of CamVid, ADE20k and COCO


@register("task", "segmentation")
class SegmentationTask(Task):
    """Segments semantically; the metric is mean intersection over union."""

    name = "segmentation"
    reads = "segmentation"
    gives = ("images", "patches")
    measures_throughput = True

    def __init__(self) -> None:
        self._key, self.pixels = "", None  # the latest configuration as a text, and its LabelledPixels
        self._judged_by: list[str] = []  # notes on the labels of the latest evaluation

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check the settings of `task`; no data are read.

        Raises:
            InvalidConfig: Settings do not fit.
        """
        read_segmentation(cfg)

    @staticmethod
    def completed(cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `task` group with the mean and std of the model's own configuration, where they are not given."""
        return completed(cfg)

    def build_model(self, cfg: Mapping[str, Any]) -> Segmenter:
        """Build the segmenter with one output a class, on the CPU with random weights.

        Raises:
            InvalidConfig: Settings do not fit.
            DatasetError: The data cannot be read.
        """
        pixels = self._pixels(cfg)
        say_if(pixels.about_view)
        return self.build(cfg, len(pixels.classes))

    def build(self, cfg: Mapping[str, Any], classes: int) -> Segmenter:
        """Build the segmenter with so many classes."""
        from tokenprune.tasks.encoder import build_pruned

        return Segmenter(build_pruned(cfg, num_classes=classes))

    def head(self, model: Segmenter) -> list[nn.Parameter]:
        """Return the parameters of the layer that labels patches."""
        return classifier_of(model.pruned.backbone)

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the labels."""
        return tuple(self._pixels(cfg).classes)

    def notes(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return which classes never occur in the validation split, which share of its pixels is ignored, and whose mean and std hold."""
        pixels = self._pixels(cfg)
        return [*pixels.notes, *self._judged_by, *filter(None, [pixels.about_view])]

    def begin(self, model: nn.Module) -> None:
        """Do nothing: no loss of this task needs a copy of the model."""

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Batch]:
        """Yield batches without end from iteration `start` on, see `LabelledPixels.training`."""
        return self._pixels(cfg).training(start)

    def losses(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of pixels at full resolution, and the encoder's own losses."""
        return model.losses(*(t.to(device_of(model)) for t in batch))

    def calibration(self, model: Segmenter, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Tensor], Any], list[Tensor]]:
        """Return the encoder, and `count` training pictures in batches, as a test sees them."""
        pixels = self._pixels(cfg)
        return model.pruned.encode, [seen[0] for seen in pixels.first("train", count, pixels.settings.batch_size, device_of(model))]

    @torch.no_grad()
    def evaluate(self, model: Segmenter, cfg: Mapping[str, Any]) -> dict[str, float]:
        """Return miou and pixel_accuracy in points over all pixels of the validation split, and miou_se by a bootstrap over its pictures.

        `resampled` then has mIoU over the samples of that bootstrap. Classes that occur neither in the truth nor in the predictions are
        left out of the mean. Each picture is judged at its own size; `task.evaluation` says how the model sees it.

        Raises:
            Diverged: Logits are NaN or infinite.
        """
        pixels = self._pixels(cfg)
        found, workers = Confusion(len(pixels.classes)), cfg["training"].get("workers", 0)
        judged = {"one_shot": _at_once, "released": _by_windows}[pixels.settings.evaluation]
        with evaluating(model):
            for truth, labels in judged(model, pixels, workers):
                found.add(truth, labels.cpu())
        counts, self._judged_by = found.counts, about_labels(found, pixels.classes)
        self.resampled = resampled_miou(counts, pixels.settings.bootstrap)
        error = float(self.resampled.values["miou"].std())
        return {"miou": mean_iou(counts), "miou_se": error, "pixel_accuracy": pixel_accuracy(counts)}

    def cost(self, model: Segmenter, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return GMACs and kept shares over validation pictures and seconds a picture of encoder and whole model, all as deployed.

        gmac_head is that of the head at every position; gmac_linear and gmac_total do not include it.
        """
        pixels, device = self._pixels(cfg), device_of(model)
        settings, deployed = pixels.settings, model.deploy()
        count = max(settings.cost_images, settings.speed_images, 1)
        images = [image for image, *_ in pixels.first("val", count, 1, device)]
        cost = encoder_cost(deployed.pruned, images[: max(1, settings.cost_images)])
        positions = deployed.pruned.family.positions(*images[0].shape[-2:])
        head = {"gmac_head": deployed.head_macs(positions[0] * positions[1]) / _GIGA}
        timed = [(image, image) for image in images[: settings.speed_images]]
        times = seconds_per_image(deployed.pruned, deployed, timed, device)
        return {**cost, **head, **times}

    def throughput(self, model: Segmenter, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return pictures a second, up to logits at the input's size, over batch sizes, on validation pictures drawn at random."""
        pixels, device = self._pixels(cfg), device_of(model)
        plan = pixels.settings.throughput
        return throughput(model.pruned.eval(), lambda size, number: pixels.drawn(size, number).to(device), plan, device, around=_whole)

    @torch.no_grad()
    def pictures(
        self, model: Segmenter, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> Iterator[Picture]:
        """Yield validation pictures with the tokens that each block used and their labels, and with the predicted labels if `predict`."""
        pixels = self._pixels(cfg)
        for number in chosen(numbers, len(pixels.split("val"))):
            view, images = pixels.shown(number)
            with record(model) as seen:
                logits = model(images.to(device_of(model)))
            used = cropped(seen.images[0], model.pruned.patch_size, *view.size)
            found = LabelMap(predicted(logits[0], view.size, view.size).cpu().numpy(), pixels.classes) if predict else None
            truth = LabelMap(view.labels.numpy(), pixels.classes)
            yield Picture(number, view.image.permute(1, 2, 0).numpy(), used, model.pruned.patch_size, found, truth)

    @torch.no_grad()
    def look(self, model: Segmenter, cfg: Mapping[str, Any], images: "Sequence[np.ndarray]", names: Sequence[str]) -> Iterator[Picture]:
        """Yield pictures of the user's own with the predicted labels."""
        pixels, patch = self._pixels(cfg), model.pruned.patch_size
        for number, image in enumerate(images):
            view, x = pixels.view_of(image)
            x = x.to(device_of(model))
            with record(model, owners=True) as seen:
                logits = model(x)
            labels = predicted(logits[0], view.size, view.size).cpu().numpy()
            found = LabelMap(labels, tuple(names) or tuple(f"class {k}" for k in range(logits.shape[1])))
            cost = encoder_cost(model.pruned, [x])
            trace = traced(seen.images[0], patch, *view.size)
            shown = view.image.permute(1, 2, 0).numpy()
            yield Picture(number, shown, patch=patch, predictions=found, gmac=(cost["gmac_linear"], cost["gmac_total"]), **trace)

    def _pixels(self, cfg: Mapping[str, Any]) -> LabelledPixels:
        key = str([cfg[group] for group in ("data", "task", "training", "backbone")])
        if self._key != key:
            self._key, self.pixels = key, LabelledPixels(cfg)
        return self.pixels


def _at_once(model: Segmenter, pixels: LabelledPixels, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the true and the predicted classes (H,W) of each validation picture, seen as a whole ("1-shot", Cropr section 4.2)."""
    count, at_once = len(pixels.split("val")), pixels.settings.batch_size
    batches = pixels.first("val", count, at_once, device_of(model), workers)
    for images, sizes, truths in progress(batches, "evaluation", -(-count // at_once)):
        outputs = model(images)
        check_finite(outputs, model, partial(model, images))
        for logits, size, truth in zip(outputs, sizes, truths, strict=True):
            yield truth, predicted(logits, size, truth.shape)


def _by_windows(model: Segmenter, pixels: LabelledPixels, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the true and the predicted classes (H,W) of each validation picture, seen through windows (`labelled`)."""
    device, batch = device_of(model), pixels.settings.batch_size
    for view in progress(pixels.pictures("val", workers), "evaluation", len(pixels.split("val"))):
        yield view.labels, labelled(model, view, pixels.side, pixels.statistics, batch, device)


def about_labels(found: Confusion, classes: Sequence[str]) -> list[str]:
    """Return a note on the labels that an evaluation met, and warn of it if they leave out a class or much of the pictures.

    Args:
        found: The counts of all pictures.
        classes: Names of the classes.
    """
    true = found.counts[:, 1].sum(0).tolist()
    absent = [name for name, pixels in zip(classes, true, strict=True) if not pixels]
    note = f"{found.ignored:.1%} of the pixels of val are ignored"
    if absent:
        shown = ", ".join(absent[:8]) + ", ..." * (len(absent) > 8)
        note += f"; {len(absent)} of {len(classes)} classes never occur in val and count only if they are predicted: {shown}"
    if absent or found.ignored > _MUCH:
        warn(f"{note}; data.ignore, data.offset and data.classes say which pixel value is which class (masks of 0 and 255 are not 0 and 1)")
    return [note]


def predicted(logits: Tensor, inside: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return classes (H,W) at a picture's own `size` from logits: softmax, padding cut off, bilinear, argmax.

    Args:
        logits: Logits, (K,side,side).
        inside: Size (h,w) of the picture inside the input; below and to the right of it is padding.
        size: The picture's own size (H,W).
    """
    shares = logits.float().softmax(0)[:, : inside[0], : inside[1]]
    if tuple(size) != tuple(inside):
        shares = F.interpolate(shares.unsqueeze(0), size=tuple(size), mode="bilinear", align_corners=False)[0]
    return shares.argmax(0)


def _whole(pruned: nn.Module) -> nn.Module:
    return Segmenter(pruned).eval()
