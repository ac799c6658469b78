"""Image classification: the ViT's own head, cross-entropy, top-1. What pre-trains the encoder of a dense task, as ImageNet does."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.data import build_classification
from tokenprune.registry import register
from tokenprune.settings import read_settings
from tokenprune.tasks.base import device_of, encoder_cost, normalised
from tokenprune.tasks.batching import BatchPlan, batches_from
from tokenprune.tasks.speed import seconds_per_image

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ClassificationConfig:
    """The `task` group. flip, vertical_flip, channels: augmentations of training images, each drawn with probability 1/2."""

    name: str = "classification"
    flip: bool = True
    vertical_flip: bool = True
    channels: bool = True
    batch_size: int = 50
    cost_images: int = 64
    speed_images: int = 20


@register("task", "classification")
class ClassificationTask:
    """Image classification, judged by top-1 accuracy."""

    name = "classification"

    def __init__(self) -> None:
        self._sets: dict[tuple[str, str], Any] = {}

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """The PrunedViT with timm's own head, on the CPU, random weights."""
        from tokenprune.backbones.vit import build_pruned

        _settings(cfg)
        return build_pruned(cfg, num_classes=len(self._data(cfg, "val").classes))

    def train_batches(self, cfg: Mapping[str, Any], start: int) -> Iterator[Batch]:
        """Endless batches (images (B,3,H,W) uint8, labels (B,)) from iteration `start` on."""
        data, settings, training = self._data(cfg, "train"), _settings(cfg), cfg["training"]
        seed = training.get("seed", 0)
        plan = BatchPlan(len(data), training["batch_size"], seed)

        def make(index: int, place: int) -> tuple[np.ndarray, int]:
            image, label = data[index]
            return augmented(image, settings, np.random.default_rng((seed, place))), label

        return batches_from(plan, make, _collate, start, training.get("workers", 0))

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the labels and the encoder's own losses."""
        images, labels = (t.to(device_of(model)) for t in batch)
        outputs = model.encode(normalised(images))
        return {"loss_cls": F.cross_entropy(model.logits(outputs).float(), labels), **model.losses(outputs)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, float]:
        """top1 in points 0..100 on the validation split and top1_se, its binomial standard error."""
        data, settings, training = self._data(cfg, "val"), _settings(cfg), model.training
        model.eval()
        right = 0
        for start in range(0, len(data), settings.batch_size):
            images, labels = _collate([data[i] for i in range(start, min(start + settings.batch_size, len(data)))])
            logits = model(normalised(images.to(device_of(model))))
            right += int((logits.argmax(1).cpu() == labels).sum())
        model.train(training)
        share = right / len(data)
        return {"top1": 100 * share, "top1_se": 100 * math.sqrt(share * (1 - share) / len(data))}

    def cost(self, model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """GMACs (without the head) and kept shares over validation images, seconds an image of the encoder and of the whole model."""
        data, settings, training = self._data(cfg, "val"), _settings(cfg), model.training
        model.eval()
        count = min(len(data), max(settings.cost_images, settings.speed_images, 1))
        images = [normalised(_collate([data[i]])[0].to(device_of(model))) for i in range(count)]
        cost = encoder_cost(model, images[: max(1, settings.cost_images)])
        timed = [(image, image) for image in images[: settings.speed_images]]
        times = seconds_per_image(model.encode, model, timed, device_of(model)) if timed else {}
        model.train(training)
        return {**cost, **times}

    def _data(self, cfg: Mapping[str, Any], split: str) -> Any:
        key = (split, str(cfg["data"]))
        if key not in self._sets:
            self._sets[key] = build_classification(cfg["data"], split)
        return self._sets[key]


def augmented(image: np.ndarray, cfg: ClassificationConfig, rng: np.random.Generator) -> np.ndarray:
    """A flipped and channel-permuted view of an image (H,W,3)."""
    if cfg.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if cfg.vertical_flip and rng.random() < 0.5:
        image = image[::-1]
    return image[..., rng.permutation(3)] if cfg.channels and rng.random() < 0.5 else image


def _settings(cfg: Mapping[str, Any]) -> ClassificationConfig:
    return read_settings(ClassificationConfig, cfg["task"], "task")


def _collate(samples: list[tuple[np.ndarray, int]]) -> Batch:
    images = np.stack([image for image, _ in samples]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.tensor([label for _, label in samples])
