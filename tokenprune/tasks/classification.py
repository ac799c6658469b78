"""Image classification: the ViT's own head, cross-entropy, top-1. What pre-trains the encoder of a dense task, as ImageNet does."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.data import build_classification
from tokenprune.engine import PrunedViT
from tokenprune.measure.usage import record
from tokenprune.pruning import prune
from tokenprune.registry import register
from tokenprune.settings import read_settings
from tokenprune.tasks.base import chosen, device_of, encoder_cost, normalised
from tokenprune.tasks.batching import BatchPlan, batches_from
from tokenprune.tasks.pictures import Picture, cropped
from tokenprune.tasks.speed import seconds_per_image
from tokenprune.tasks.throughput import ThroughputPlan, throughput

Batch = tuple[Tensor, ...]
_OBJECT_SHARE = 0.25  # of a patch's pixels, from which on the patch carries the object's label


@dataclass(frozen=True)
class ClassificationConfig:
    """The `task` group. flip, vertical_flip, channels: augmentations of training images, each drawn with probability 1/2.

    token_labels: weight of a second cross-entropy on every patch token, whose label is the object's or "no class" (token labelling
    as in LV-ViT, Jiang et al. 2021); needs a data set with class maps. The head then has one output more.
    throughput: how images a second are measured, where a run asks for them.
    """

    name: str = "classification"
    flip: bool = True
    vertical_flip: bool = True
    channels: bool = True
    token_labels: float = 0.0
    batch_size: int = 50
    cost_images: int = 64
    speed_images: int = 20
    throughput: ThroughputPlan = field(default_factory=ThroughputPlan)


@register("task", "classification")
class ClassificationTask:
    """Image classification, judged by top-1 accuracy."""

    name = "classification"
    gives = ("images", "logits", "targets", "teacher")

    def __init__(self) -> None:
        self._sets: dict[tuple[str, str], Any] = {}
        self.token_weight = 0.0
        self.teacher: PrunedViT | None = None

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """The PrunedViT with timm's own head, on the CPU, random weights."""
        from tokenprune.backbones.vit import build_pruned

        self.token_weight = _settings(cfg).token_labels
        classes = len(self._data(cfg, "val").classes)
        return build_pruned(cfg, num_classes=classes + int(self.token_weight > 0))

    def begin(self, model: nn.Module) -> None:
        """Keep a frozen copy of the unpruned model, head included, where a loss learns from one."""
        if any("teacher" in term.needs for term in model.loss_terms.values()):
            self.teacher = prune(copy.deepcopy(model.backbone)).eval().requires_grad_(False)

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Batch]:
        """Endless batches (images (B,3,H,W) uint8, labels (B,), with token labels also maps (B,H,W)) from iteration `start` on."""
        data, settings, training = self._data(cfg, "train"), _settings(cfg), cfg["training"]
        seed = training.get("seed", 0)
        plan = BatchPlan(len(data), training["batch_size"], seed)

        def make(index: int, place: int) -> tuple[Any, ...]:
            image, label, *maps = data.with_map(index) if settings.token_labels else data[index]
            views = augmented([image, *maps], settings, np.random.default_rng((seed, place)))
            return views[0], label, *views[1:]

        return batches_from(plan, make, _collate, start, training.get("workers", 0))

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the labels, of token labels where the batch has them, and the encoder's own losses."""
        images, labels, *maps = (t.to(device_of(model)) for t in batch)
        images = normalised(images)
        outputs = model.encode(images)
        facts = {"images": images, "logits": model.logits(outputs).float(), "targets": labels, "teacher": self.teacher}
        losses = {"loss_cls": F.cross_entropy(facts["logits"], labels), **model.losses(outputs, **facts)}
        if maps:
            logits = model.backbone.head(outputs.map).float()
            targets = patch_labels(maps[0], labels, model.patch_size, none=logits.shape[-1] - 1)
            losses["loss_tokens"] = self.token_weight * F.cross_entropy(logits.flatten(0, 1), targets)
        return losses

    def calibration(self, model: nn.Module, cfg: Mapping[str, Any], count: int) -> tuple[Callable[[Tensor], Any], list[Tensor]]:
        """The encoder, and `count` training images in batches, normalised."""
        batches = _batches(self._data(cfg, "train"), count, _settings(cfg).batch_size, device_of(model))
        return model.encode, [images for images, _ in batches]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """top1 in points 0..100 on the validation split and top1_se, its binomial standard error."""
        data, settings, training = self._data(cfg, "val"), _settings(cfg), model.training
        model.eval()
        right = 0
        for images, labels in _batches(data, len(data), settings.batch_size, device_of(model)):
            right += int((model(images).argmax(1).cpu() == labels).sum())
        model.train(training)
        share = right / len(data)
        return {"top1": 100 * share, "top1_se": 100 * math.sqrt(share * (1 - share) / len(data))}

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """GMACs (without the head) and kept shares over validation images, seconds an image of the encoder and of the whole model."""
        data, settings, training = self._data(cfg, "val"), _settings(cfg), model.training
        model.eval()
        count = max(settings.cost_images, settings.speed_images, 1)
        images = [image for image, _ in _batches(data, count, 1, device_of(model))]
        cost = encoder_cost(model, images[: max(1, settings.cost_images)])
        timed = [(image, image) for image in images[: settings.speed_images]]
        times = seconds_per_image(model, model, timed, device_of(model)) if timed else {}
        model.train(training)
        return {**cost, **times}

    def throughput(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Images a second over batch sizes, of validation images drawn at random (see `tasks.throughput`)."""
        data, device = self._data(cfg, "val"), device_of(model)

        def drawn(size: int, number: int) -> Tensor:
            chosen = np.random.default_rng((size, number)).integers(len(data), size=size)
            return normalised(_collate([data[int(i)] for i in chosen])[0].to(device))

        return throughput(model.eval(), drawn, _settings(cfg).throughput, device)

    @torch.no_grad()
    def pictures(
        self, model: nn.Module, cfg: Mapping[str, Any], numbers: Sequence[int] | None = None, predict: bool = True
    ) -> Iterator[Picture]:
        """Validation pictures with the tokens that each block used; there is nothing in them to predict."""
        data = self._data(cfg, "val")
        for number in chosen(numbers, len(data)):
            pixels = data[number][0]
            with record(model) as seen:
                model.encode(normalised(_collate([data[number]])[0].to(device_of(model))))
            yield Picture(number, pixels, cropped(seen.images[0], model.patch_size, *pixels.shape[:2]), model.patch_size)

    def _data(self, cfg: Mapping[str, Any], split: str) -> Any:
        key = (split, str(cfg["data"]))
        if key not in self._sets:
            self._sets[key] = build_classification(cfg["data"], split)
        return self._sets[key]


def augmented(views: list[np.ndarray], cfg: ClassificationConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """An image (H,W,3) and its maps (H,W), flipped alike; the image's channels permuted."""
    if cfg.flip and rng.random() < 0.5:
        views = [v[:, ::-1] for v in views]
    if cfg.vertical_flip and rng.random() < 0.5:
        views = [v[::-1] for v in views]
    if cfg.channels and rng.random() < 0.5:
        views = [views[0][..., rng.permutation(3)], *views[1:]]
    return views


def patch_labels(maps: Tensor, labels: Tensor, patch: int, none: int) -> Tensor:
    """Labels (B*N,) of patches of `patch` pixels from class maps (B,H,W): the image's label (B,) where enough is object, else `none`."""
    share = F.avg_pool2d((maps == labels.view(-1, 1, 1)).float().unsqueeze(1), patch).flatten(1)
    return torch.where(share > _OBJECT_SHARE, labels.unsqueeze(1), none).flatten()


def _settings(cfg: Mapping[str, Any]) -> ClassificationConfig:
    return read_settings(ClassificationConfig, cfg["task"], "task")


def _batches(data: Any, count: int, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` samples in order: images (batch,3,H,W), normalised and on the device, and labels (batch,) on the CPU."""
    count = min(count, len(data))
    for start in range(0, count, batch):
        images, labels = _collate([data[i] for i in range(start, min(start + batch, count))])
        yield normalised(images.to(device)), labels


def _collate(samples: list[tuple[Any, ...]]) -> Batch:
    images, labels, *maps = zip(*samples, strict=True)
    pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels), torch.tensor(labels), *(torch.from_numpy(np.stack(m)) for m in maps)
