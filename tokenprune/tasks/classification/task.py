"""Defines image classification: the ViT's own head, cross-entropy, top-1, top-5.

It pre-trains the encoder of a dense task, as ImageNet does.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.engine.as_transformers import PrunedTransformer
from tokenprune.engine.model import pruned_of
from tokenprune.engine.prune import prune
from tokenprune.measure.macs import encoder_cost
from tokenprune.measure.speed import precision, seconds_per_image
from tokenprune.measure.throughput import throughput
from tokenprune.measure.usage import record
from tokenprune.registry import register
from tokenprune.tasks.base import Task, chosen, device_of
from tokenprune.tasks.classification.images import LabelledImages
from tokenprune.tasks.classification.looking import Look, looked
from tokenprune.tasks.classification.settings import read_recipe
from tokenprune.tasks.classification.views import Batch, as_input, collate
from tokenprune.tasks.draws import over_draws
from tokenprune.tasks.pictures import Picture, cropped
from tokenprune.tasks.preprocessing import completed_view
from tokenprune.utils.console import progress, say_if
from tokenprune.utils.finite import check_finite
from tokenprune.utils.modes import evaluating

if TYPE_CHECKING:
    import numpy as np

    from tokenprune.engine.model import PrunedViT

_TOP5_FROM = 10  # least number of classes for top-5; with fewer, five guesses say little
_OBJECT_SHARE = 0.25  # share of a patch's pixels from which on the patch carries the object's label


@register("task", "classification")
class ClassificationTask(Task):
    """Classifies images; the metric is top-1 accuracy."""

    name = "classification"
    reads = "classification"
    gives = ("images", "logits", "targets", "teacher")
    measures_throughput = True

    def __init__(self) -> None:
        self._key, self.images = "", None  # the latest configuration as a text, and its LabelledImages
        self.teacher: PrunedViT | None = None

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check the settings of `task`; no data are read.

        Raises:
            InvalidConfig: Settings do not fit.
        """
        read_recipe(cfg)

    @staticmethod
    def completed(cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `task` group with the view of photographs as the model's own configuration has it, where it is not given."""
        view = completed_view(cfg)
        return dict(cfg["task"]) if view is None else {**cfg["task"], "view": view}

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """Build the PrunedViT with timm's own head, on the CPU with random weights.

        Raises:
            InvalidConfig: Settings do not fit.
            DatasetError: The data cannot be read.
        """
        images = self._images(cfg)
        say_if(images.about_view)
        return self.build(cfg, len(images.classes) + int(images.recipe.token_labels > 0))

    def build(self, cfg: Mapping[str, Any], classes: int) -> nn.Module:
        """Build the PrunedViT with so many outputs."""
        from tokenprune.tasks.encoder import build_pruned

        return build_pruned(cfg, num_classes=classes)

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of timm's classifier; a distilled model has two."""
        return classifier_of(model)

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the labels."""
        return tuple(self._images(cfg).classes)

    def notes(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return the notes on the data and on the view."""
        images = self._images(cfg)
        return [*images.notes, *filter(None, [images.about_view])]

    def begin(self, model: nn.Module) -> None:
        """Keep a frozen copy of the unpruned model, head included, if a loss learns from one."""
        if any("teacher" in term.needs for term in model.loss_terms.values()):
            self.teacher = prune(copy.deepcopy(model.backbone)).eval().requires_grad_(False)

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Batch]:
        """Yield batches without end from iteration `start` on, see `LabelledImages.training`."""
        return self._images(cfg).training(start)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch.

        They are the cross-entropy of labels (B,) or soft targets (B,classes), that of token labels if there are any, and the encoder's own
        losses.
        """
        images, labels, *maps = (t.to(device_of(model)) for t in batch)
        images = as_input(images, self.images.statistics)
        outputs = model.encode(images)
        facts = {"images": images, "logits": model.logits(outputs).float(), "targets": labels, "teacher": self.teacher}
        losses = {"loss_cls": F.cross_entropy(facts["logits"], labels), **model.losses(outputs, **facts)}
        if maps:
            logits = model.family.label(outputs.map).float()
            targets = patch_labels(maps[0], labels, model.patch_size, none=logits.shape[-1] - 1)
            losses["loss_tokens"] = self.images.recipe.token_labels * F.cross_entropy(logits.flatten(0, 1), targets)
        return losses

    def calibration(self, model: nn.Module, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Tensor], Any], list[Tensor]]:
        """Return the encoder, and `count` normalised training images in batches."""
        images = self._images(cfg)
        return model.encode, [batch for batch, _ in images.first("train", count, images.recipe.batch_size, device_of(model))]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """Return the accuracy on the validation split; `per_image` then has the class `predicted` for each image and the `true` one.

        Gates that are drawn are drawn `task.draws` times. Every number is then the mean over the draws, and `per_image` is the last one's.

        Returns:
            top1 in points 0..100 and top1_se, its binomial standard error; from 10 classes on also top5 and top5_se. With several draws
            also top1_spread, the standard deviation from draw to draw.

        Raises:
            Diverged: Logits are NaN or infinite.
        """
        selectors = list(getattr(model, "selectors", {}).values())
        return over_draws(selectors, self._images(cfg).recipe.draws, partial(self._judged, model, cfg), ["top1"])

    def _judged(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        images = self._images(cfg)
        count, workers = len(images.split("val")), cfg["training"].get("workers", 0)
        guesses = {"top1": 1, "top5": 5} if len(images.classes) >= _TOP5_FROM else {"top1": 1}
        right, found = dict.fromkeys(guesses, 0), []
        size, device, ask = images.recipe.batch_size, device_of(model), answer_of(model)
        dtype = "float32" if images.recipe.view is None else images.recipe.view.dtype
        with evaluating(model), precision(device, dtype):
            for batch, labels in progress(images.first("val", count, size, device, workers), "evaluation", -(-count // size)):
                logits = ask(batch)
                check_finite(logits, model, partial(ask, batch))
                best = logits.topk(max(guesses.values())).indices.cpu()
                hit = best == labels.unsqueeze(1)
                found.append(torch.stack([best[:, 0], labels.cpu()]).to(torch.int32))
                right = {name: right[name] + int(hit[:, :k].sum()) for name, k in guesses.items()}
        self.per_image = dict(zip(("predicted", "true"), torch.cat(found, 1), strict=True))
        return {key: value for name, n in right.items() for key, value in _percent(name, n / count, count).items()}

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return GMACs (without the head) and kept shares over validation images, and seconds an image of encoder and whole model."""
        known = self._images(cfg)
        settings = known.recipe
        count = max(settings.cost_images, settings.speed_images, 1)
        images = [image for image, _ in known.first("val", count, 1, device_of(model))]
        with evaluating(model):
            cost = encoder_cost(model, images[: max(1, settings.cost_images)])
            timed = [(image, image) for image in images[: settings.speed_images]]
            times = seconds_per_image(pruned_of(model), model, timed, device_of(model))
        return {**cost, **times}

    def throughput(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return images a second over batch sizes, on validation images drawn at random (see `measure.throughput`)."""
        images, device = self._images(cfg), device_of(model)
        return throughput(model.eval(), lambda size, number: images.drawn(size, number).to(device), images.recipe.throughput, device)

    @torch.no_grad()
    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> Iterator[Picture]:
        """Yield validation pictures with the tokens that each block used. There is nothing in them to predict."""
        images = self._images(cfg)
        for number in chosen(numbers, len(images.split("val"))):
            pixels = images.pixels(number)
            with record(model) as seen:
                model.encode(as_input(collate([(pixels, 0)])[0].to(device_of(model)), images.statistics))
            yield Picture(number, pixels, cropped(seen.images[0], model.patch_size, *pixels.shape[:2]), model.patch_size)

    def look(self, model: nn.Module, cfg: Mapping[str, Any], images: "Sequence[np.ndarray]", names: Sequence[str]) -> Iterator[Picture]:
        """Yield pictures of the user's own as the test sees photographs, with the best guesses."""
        known = self._images(cfg)
        look = Look(known.recipe.view, known.side, known.statistics, names)
        return (looked(model, image, look, number) for number, image in enumerate(images))

    def _images(self, cfg: Mapping[str, Any]) -> LabelledImages:
        key = str([cfg[group] for group in ("data", "task", "training", "backbone")])
        if self._key != key:
            self._key, self.images = key, LabelledImages(cfg)
        return self.images


def _percent(name: str, share: float, count: int) -> dict[str, float]:
    return {name: 100 * share, f"{name}_se": 100 * math.sqrt(share * (1 - share) / count)}


def answer_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the call that gives a model's logits (B,classes) for images: itself, unless it answers as transformers does."""
    return model.classify if isinstance(model, PrunedTransformer) else model


def classifier_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a timm model's classifier, [] if it has none."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    modules = found if isinstance(found, (tuple, list)) else [found]
    return [parameter for module in modules if isinstance(module, nn.Module) for parameter in module.parameters()]


def patch_labels(maps: Tensor, labels: Tensor, patch: int, none: int) -> Tensor:
    """Return labels (B*N,) of patches: the image's label where enough of the patch is object, else `none`.

    Args:
        maps: Class maps, (B,H,W).
        labels: Labels of the images, (B,).
        patch: Side of a patch in pixels.
        none: The label of a patch without object.
    """
    share = F.avg_pool2d((maps == labels.view(-1, 1, 1)).float().unsqueeze(1), patch).flatten(1)
    return torch.where(share > _OBJECT_SHARE, labels.unsqueeze(1), none).flatten()
