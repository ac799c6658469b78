"""Builds vision models of Hugging Face's transformers from a folder of `save_pretrained`. Nothing is ever fetched from the network."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenprune.errors import CheckpointMismatch, InvalidConfig, MissingDependency
from tokenprune.utils.hf_folder import folder_value, model_folder
from tokenprune.utils.settings import read_settings

_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.")


@dataclass(frozen=True)
class HfConfig:
    """Sets the `backbone` group of backbone=hf.

    Args:
        name: Name of the configuration group: hf.
        size: see `VitConfig`.
        model: Folder that `save_pretrained` of transformers wrote, with config.json and weights.
        img_size: Side of the images in pixels: that of the folder.
        patch_size: Side of a patch in pixels: that of the folder.
        class_token: Whether the folder's model has a class token; for labels of rows.
        attention: Implementation of attention, as transformers calls it: sdpa, eager, flash_attention_2.
        pretrained: Unused; the weights of the folder come as init=FOLDER.
    """

    name: str = "hf"
    size: str = ""
    model: str | None = None
    img_size: int = 224
    patch_size: int = 16
    class_token: bool = True
    attention: str = "sdpa"
    pretrained: str | None = None


def read_hf(cfg: HfConfig | Mapping[str, Any]) -> HfConfig:
    """Read the `backbone` group.

    Raises:
        InvalidConfig: A key or value is wrong, the folder is not there, or the sizes are not the folder's.
    """
    if isinstance(cfg, HfConfig):
        return cfg
    read = read_settings(HfConfig, cfg, "backbone")
    model_folder(read.model)
    own = {name: folder_value(read.model, name) for name in ("img_size", "patch_size")}
    wrong = [f"backbone.{name} is {getattr(read, name)}, and the model in {read.model} has {value}" for name, value in own.items()
             if getattr(read, name) != value]  # fmt: skip
    if wrong:
        raise InvalidConfig([f"{text}; leave it out" for text in wrong])
    return read


def build_hf(cfg: HfConfig | Mapping[str, Any], num_classes: int = 0) -> nn.Module:
    """Build the model of a folder with random weights: with a classification head, or for 0 classes the plain tower or pair of towers.

    Raises:
        InvalidConfig: See `read_hf`; or transformers has no classifier of this kind.
        MissingDependency: transformers is not installed.
    """
    transformers, read = library(), read_hf(cfg)
    try:
        config = transformers.AutoConfig.from_pretrained(model_folder(read.model), local_files_only=True)
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"the config.json of {read.model} cannot be read: {error}; fetch the folder again") from error
    options = {"attn_implementation": read.attention, "dtype": torch.float32}
    if not num_classes:
        return transformers.AutoModel.from_config(config, **options).eval()
    if config.num_labels != num_classes:
        config.num_labels = num_classes
    name = (config.architectures or [""])[0]
    if "ForImageClassification" in name and hasattr(transformers, name):  # a DeiT with two heads is another class than that of its type
        return getattr(transformers, name)._from_config(config, **options).eval()
    try:
        return transformers.AutoModelForImageClassification.from_config(config, **options).eval()
    except ValueError as error:
        raise InvalidConfig(
            f"{type(config).__name__} of {read.model} has no classifier in transformers; allowed: ViT, DeiT, DINOv2, CLIP and SigLIP"
            " models, the latter two with their text tower"
        ) from error


def load_folder(backbone: nn.Module, folder: Path | str) -> list[str]:
    """Load the weights of a folder into a model that `build_hf` built from it; keys of older versions are converted by transformers.

    Args:
        backbone: The model of transformers.
        folder: The folder.

    Returns:
        Notes: a head that the folder lacks or that has another number of outputs, which stays random.

    Raises:
        CheckpointMismatch: The folder has no weights, or others are missing or of another shape.
    """
    library()
    folder = model_folder(str(folder))
    kind: Any = type(backbone)
    try:
        loaded, told = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointMismatch(f"{folder.name} holds no weights for {kind.__name__}: {error}") from error
    theirs, ours = loaded.state_dict(), backbone.state_dict()
    absent = set(told["missing_keys"])
    bad = {key for key in ours if key in absent or key not in theirs or theirs[key].shape != ours[key].shape}
    heads = {key for key in ours if key.startswith(_HEADS)}
    if bad - heads:
        names = ", ".join(sorted(bad - heads))
        raise CheckpointMismatch(f"{folder.name} does not fit {kind.__name__}: missing or of another shape are {names}; fetch it again")
    with torch.no_grad():
        for key in ours.keys() - bad:
            ours[key].copy_(theirs[key])
    said = ["the head starts from random weights: that of the folder is missing or has another number of outputs"] if bad else []
    unused = sorted(told["unexpected_keys"])
    return said + ([f"left out of the folder, which this model does not have: {', '.join(unused[:4])}"] if unused else [])


def library() -> Any:
    """Return the module transformers, which then asks no network.

    Raises:
        MissingDependency: It is not installed, or takes no torch as old as the installed one.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency("transformers is not installed: pip install 'tokenprune[hf]' (or `make setup`)") from error
    if not transformers.is_torch_available():
        told = f"transformers {transformers.__version__} takes no torch {torch.__version__}"
        raise MissingDependency(f"{told}; install torch 2.6 or later, or an earlier transformers from 5.18 on")
    transformers.utils.logging.disable_progress_bar()  # of loading; the run has its own
    return transformers
