"""Reads what a folder of Hugging Face's `save_pretrained` says of its model, without transformers: sizes, preprocessing, files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.errors import InvalidConfig
from tokenprune.utils.paths import home_path

HF = "hf"  # name of the backbone group whose model is such a folder
_RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_READ = (".json", ".safetensors", ".bin", ".txt", ".model")  # endings of files that a model or a tokenizer is made from
_FALLBACK = {"img_size": 224, "patch_size": 16, "class_token": True}  # for a folder that is not there, which is refused elsewhere


def is_hf(backbone: Mapping[str, Any]) -> bool:
    """Tell whether a `backbone` group names a folder of transformers."""
    return backbone.get("name") == HF


def model_folder(model: Any) -> Path:
    """Return the folder that `backbone.model` names.

    Raises:
        InvalidConfig: There is none, or it holds no model of transformers.
    """
    allowed = "allowed: a folder with config.json, as save_pretrained of transformers writes it; nothing is fetched from the network"
    if not isinstance(model, str):
        raise InvalidConfig(f"backbone.model is not set; {allowed}: backbone=hf backbone.model=FOLDER")
    folder = home_path(model)
    if not (folder / "config.json").is_file():
        raise InvalidConfig(f"backbone.model is {model!r}, and there is no {folder / 'config.json'}; {allowed}")
    return folder


def folder_files(folder: Path) -> list[Path]:
    """Return the files of a folder that a model or a tokenizer is made from, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _READ)


def folder_value(model: Any, name: str) -> Any:
    """Return a size of the vision tower in a folder: img_size, patch_size in pixels, or class_token, whether it has one.

    `start` is what a run starts from: the folder, `scratch` where none is given. A folder that cannot be read gives the values of a
    ViT-B/16; `model_folder` refuses it.
    """
    if name == "start":
        return model or "scratch"
    try:
        config = _json(model_folder(model) / "config.json")
    except InvalidConfig:
        return _FALLBACK[name]
    tower = config.get("vision_config") or config
    if name == "class_token":
        return not str(config.get("model_type", "")).startswith("siglip")
    defaults = {"img_size": 224, "patch_size": _patch(config)}
    value = tower.get({"img_size": "image_size"}.get(name, name), defaults[name])
    return value[0] if isinstance(value, list) else value


def folder_view(model: Any) -> dict[str, Any]:
    """Return the preprocessing that a folder's preprocessor_config.json asks for, in the words of `task.view`; {} without such a file.

    Raises:
        InvalidConfig: It asks for something that `task.view` has no words for.
    """
    try:
        said = _preprocessor(model_folder(model))
    except InvalidConfig:
        return {}
    if said is None:
        return {}
    if said.get("do_rescale", True) and abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise InvalidConfig(f"rescale_factor is {said['rescale_factor']} in the preprocessor_config.json of {model}; allowed: 1/255")
    normalised = said.get("do_normalize", True)
    view: dict[str, Any] = {
        "interpolation": _RESAMPLINGS[said.get("resample", 2)],
        "mean": [float(v) for v in said["image_mean"]] if normalised else [0.0] * 3,
        "std": [float(v) for v in said["image_std"]] if normalised else [1.0] * 3,
    }
    return {**view, **_crop(said, model)}


def _crop(said: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return crop_pct, and crop_mode where the image is squeezed to a square."""
    size, crop = _sides(said.get("size", 224)), _sides(said.get("crop_size", 224))
    if not said.get("do_center_crop", False):
        if "shortest_edge" in size:
            raise InvalidConfig(
                f"the preprocessor_config.json of {model} resizes the shorter side to {size['shortest_edge']} and does not crop, which"
                " gives images of several sizes; give task.view.crop_pct with it, or add do_center_crop"
            )
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    shorter = size.get("shortest_edge", size.get("height"))
    kept = {"crop_pct": min(1.0, crop.get("height", crop.get("shortest_edge", 224)) / shorter)}
    return kept if "shortest_edge" in size else {**kept, "crop_mode": "squash"}


def _sides(size: Any) -> dict[str, int]:
    return dict(size) if isinstance(size, Mapping) else {"height": size, "width": size}


def _preprocessor(folder: Path) -> dict[str, Any] | None:
    path, joined = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.is_file():
        return _json(path)
    return _json(joined).get("image_processor") if joined.is_file() else None


def _patch(config: Mapping[str, Any]) -> int:
    """Return the side of a patch that transformers takes where the file does not say."""
    kind = str(config.get("model_type", ""))
    return 32 if kind.startswith("clip") else 14 if kind == "dinov2" else 16


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} cannot be read: {error}; fetch it again") from error
