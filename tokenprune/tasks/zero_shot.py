"""Judges a CLIP or SigLIP model on a folder of classes without training: each image gets the class whose name it is nearest to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.backbones.hf import library
from tokenprune.engine.as_transformers import PrunedTransformer
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.tasks.classification.images import LabelledImages
from tokenprune.tasks.classification.task import ClassificationTask
from tokenprune.utils.console import say_if
from tokenprune.utils.hf_folder import is_hf, model_folder
from tokenprune.utils.paths import home_path
from tokenprune.utils.settings import read_settings

_TEXTS = 64  # in a pass of the text tower


@dataclass(frozen=True)
class ZeroShotConfig:
    """Sets what the `task` group of task=zero_shot has beside that of task=classification.

    Args:
        prompts: Sentences with `{}` in the place of a class's name. The embeddings of all of them, each of length 1, are averaged (CLIP,
            Radford et al. 2021, section 3.1.4).
        class_names: What the classes are called in prompts: None takes the names of the folders, `_` as a space; or {folder: name}, or a
            file with that as JSON, or a text file with a name a line in the order of the classes.
    """

    prompts: tuple[str, ...] = ("a photo of a {}.",)
    class_names: dict[str, str] | str | None = None


class ZeroShot(nn.Module):
    """A pruned CLIP or SigLIP model whose classes are texts.

    Args:
        pruned: The model, both towers; the vision tower drops tokens.
        folder: Folder of its tokenizer.
        texts: For each class its prompts.
    """

    def __init__(self, pruned: PrunedTransformer, folder: Path, texts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.pruned, self.folder, self.texts = pruned, folder, texts
        self.embedded: Tensor | None = None  # of the classes, (classes,D), once they are asked for

    def forward(self, images: Tensor) -> Tensor:
        """Return the similarities of images (B,3,h,w) to the classes, (B,classes), scaled as the model scales them."""
        if self.embedded is None or self.embedded.device != images.device:
            self.embedded = self.classes()
        features = F.normalize(self.pruned.classify(images), dim=-1)
        model = self.pruned.backbone
        return features @ self.embedded.type_as(features).t() * model.logit_scale.exp() + getattr(model, "logit_bias", 0.0)

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels."""
        return self.pruned.patch_size

    def encode(self, images: Tensor) -> Any:
        """Return the outputs of the vision tower."""
        return self.pruned.encode(images)

    @torch.no_grad()
    def classes(self) -> Tensor:
        """Return the embeddings of the classes (classes,D), each of length 1: the mean over a class's prompts.

        Raises:
            InvalidConfig: The folder has no tokenizer that can be read.
        """
        tokens = self._tokens([text for texts in self.texts for text in texts])
        with torch.inference_mode(False):
            parts = [self.pruned.get_text_features(**part).pooler_output for part in tokens]
        each = F.normalize(torch.cat(parts), dim=-1).unflatten(0, (len(self.texts), -1))
        return F.normalize(each.mean(1), dim=-1)

    def _tokens(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tokens of texts in parts; SigLIP was trained on texts that are padded to its longest."""
        config = self.pruned.config
        longest = config.text_config.max_position_embeddings
        padding = "max_length" if config.model_type.startswith("siglip") else True
        tokenizer = _tokenizer(self.folder)
        given = {"padding": padding, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        parts = [tokenizer(list(texts[i : i + _TEXTS]), **given) for i in range(0, len(texts), _TEXTS)]
        return [{name: values.to(self.pruned.device) for name, values in part.items() if name in ("input_ids", "attention_mask")}
                for part in parts]  # fmt: skip


@register("task", "zero_shot")
class ZeroShotTask(ClassificationTask):
    """Judges a CLIP or SigLIP model by the names of the classes, not trained: top-1, top-5, cost of the vision tower, speed."""

    name = "zero_shot"
    gives = ()
    measures_throughput = False

    @staticmethod
    def check(cfg: Mapping[str, Any]) -> None:
        """Check that the run asks for no training, and that the settings of `task` fit.

        Raises:
            InvalidConfig: They do not; the message names each problem.
        """
        ClassificationTask.check(_plain(cfg))
        given = read_zero_shot(cfg)
        iterations, init = cfg["training"].get("iterations"), cfg["init"]
        bad = [
            (not is_hf(cfg["backbone"]), "backbone is no folder of transformers; allowed: backbone=hf backbone.model=FOLDER"),
            (iterations != 0, f"training.iterations is {iterations}; allowed: 0, nothing is trained"),
            (init in ("dense", "pretrained"), f"init is {init!r}; allowed: the folder (the default of backbone=hf), a file, scratch"),
            (not given.prompts, "task.prompts is empty; allowed: one sentence or more"),
            *((prompt.count("{}") != 1, f"task.prompts has {prompt!r}; allowed: one {{}} in each") for prompt in given.prompts),
        ]
        problems = [text for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)

    @staticmethod
    def completed(cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `task` group with the view of the folder, and the names of classes in the place of their file."""
        task = {**cfg["task"], **ClassificationTask.completed(_plain(cfg))}
        names = task.get("class_names")
        return {**task, "class_names": _read_names(names)} if isinstance(names, str) else task

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """Build both towers, on the CPU with random weights.

        Raises:
            InvalidConfig: The model has no text tower, or a class has no name.
            DatasetError: The data cannot be read.
        """
        from tokenprune.tasks.encoder import build_pruned

        images, given = self._images(cfg), read_zero_shot(cfg)
        say_if(images.about_view)
        pruned = build_pruned(cfg)
        if not isinstance(pruned, PrunedTransformer) or not hasattr(pruned.backbone, "get_text_features"):
            kind = type(pruned.backbone).__name__
            raise InvalidConfig(f"backbone.model is a {kind}, which has no text tower; allowed: CLIP and SigLIP models")
        named = names_of(images.classes, given.class_names)
        return ZeroShot(
            pruned, model_folder(cfg["backbone"]["model"]), [[prompt.format(name) for prompt in given.prompts] for name in named]
        )

    def begin(self, model: nn.Module) -> None:
        """Forget what the classes were embedded to with earlier weights."""
        model.embedded = None

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """Return nothing: the classes are texts."""
        return []

    def notes(self, cfg: Mapping[str, Any]) -> list[str]:
        """Return the notes on the data, the view and the texts."""
        prompts = read_zero_shot(cfg).prompts
        said = f"zero-shot over {len(prompts)} prompt(s) a class, the first {prompts[0]!r}; GMACs are of the vision tower"
        return [*super().notes(cfg), said]

    def _images(self, cfg: Mapping[str, Any]) -> LabelledImages:
        return super()._images(_plain(cfg))


def read_zero_shot(cfg: Mapping[str, Any]) -> ZeroShotConfig:
    """Read what the `task` group of a run has beside that of task=classification.

    Raises:
        InvalidConfig: A value has a wrong type.
    """
    own = {f.name: cfg["task"][f.name] for f in fields(ZeroShotConfig) if f.name in cfg["task"]}
    return read_settings(ZeroShotConfig, own, "task")


def names_of(classes: Sequence[str], given: Mapping[str, str] | str | None) -> list[str]:
    """Return what classes are called in prompts.

    Args:
        classes: Names of their folders.
        given: See `ZeroShotConfig`.

    Raises:
        InvalidConfig: A class has no name, or there are more or fewer names than classes.
    """
    given = _read_names(given) if isinstance(given, str) else given
    if given is None:
        return [name.replace("_", " ") for name in classes]
    if all(key.isdigit() for key in given) and not set(classes) <= set(given):  # of a text file: by place
        if len(given) != len(classes):
            raise InvalidConfig(f"task.class_names has {len(given)} names, and the data have {len(classes)} classes; give one for each")
        return [given[str(number)] for number in range(len(classes))]
    missing = [name for name in classes if name not in given]
    if missing:
        raise InvalidConfig(f"task.class_names has no name for {', '.join(missing[:5])} ({len(missing)} of {len(classes)} classes)")
    return [given[name] for name in classes]


def _read_names(file: str) -> dict[str, str]:
    """Return {folder: name} of a JSON file, or {place: name} of a text file with a name a line."""
    path = home_path(file)
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else dict(enumerate(filter(None, map(str.strip, text.splitlines()))))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"task.class_names is {file!r}, which cannot be read: {error}; allowed: a text file, or a JSON file") from error
    if not isinstance(found, dict):
        raise InvalidConfig(f"task.class_names is {file!r}, which holds a {type(found).__name__}; allowed: {{folder: name}}")
    return {str(key): str(value) for key, value in found.items()}


def _tokenizer(folder: Path) -> Any:
    try:
        return library().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise InvalidConfig(f"the tokenizer in {folder} cannot be read: {first}; save it there: AutoTokenizer...save_pretrained") from error


def _plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run whose task has the settings of task=classification alone."""
    own = {f.name for f in fields(ZeroShotConfig)}
    return {**cfg, "task": {name: value for name, value in cfg["task"].items() if name not in own}}
