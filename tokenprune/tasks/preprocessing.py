"""Mean, deviation, crop and interpolation of photographs: as the model's own configuration says, unless the user says otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from timm.data.constants import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tokenprune.registry import get, names
from tokenprune.utils.hf_folder import folder_view, is_hf

IMAGENET: dict[str, Any] = {
    "crop_pct": DEFAULT_CROP_PCT, "interpolation": "bicubic", "mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD),
}  # fmt: skip
_CENTRE = "center"  # the crop of a view that names none


def shows_photographs(cfg: Mapping[str, Any]) -> bool:
    """Tell whether the data of a run are photographs, and not pictures that this project draws."""
    name = cfg.get("data", {}).get("name")
    return name in names("data") and get("data", name).photographs


def own_view(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return crop_pct, interpolation, mean and std as timm's configuration of `backbone.model` has them, crop_mode if it is not `center`.

    For a folder of transformers they are those of its preprocessor_config.json. The result is {} where there is no such configuration.
    """
    if is_hf(backbone):
        return folder_view(backbone.get("model"))
    known = _configuration(backbone.get("model"))
    if known is None:
        return {}
    found = resolve_data_config({}, pretrained_cfg=known)
    view = {name: _plain(found[name]) for name in IMAGENET}
    return view if found["crop_mode"] == _CENTRE else {**view, "crop_mode": found["crop_mode"]}


def completed_view(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `task.view` of a run with the values that are not given: the model's own, else ImageNet's.

    Drawn pictures without a view have none.

    Args:
        cfg: The run.
    """
    given = cfg["task"].get("view")
    if given is not None and not isinstance(given, Mapping):
        return given  # reading the settings refuses it
    if given is None and not shows_photographs(cfg):
        return None
    given = {name: value for name, value in (given or {}).items() if value is not None}
    own = own_view(cfg.get("backbone", {}))
    if "crop_pct" in given:
        own.pop("crop_mode", None)  # who gives the crop gives all of it
    return {**IMAGENET, **own, **given}


def about_view(view: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return words for a view that tell where its values are from; "" for a model without a configuration of its own.

    Args:
        view: Values by name, as `completed_view` returns them, or some of them.
        backbone: The `backbone` group of the run.
    """
    own = own_view(backbone)
    if not own:
        return ""
    parts = {True: [], False: []}
    for name, value in view.items():
        parts[_plain(value) == own.get(name, _CENTRE)].append(f"{name} {_plain(value)}")
    folder = is_hf(backbone)
    teller = f"the preprocessor of {Path(backbone['model']).name}" if folder else f"timm's configuration of {_full_name(backbone['model'])}"
    words = [f"{', '.join(parts[True])} of {teller}"] if parts[True] else []
    short = "there" if folder else "timm"
    words += [f"{', '.join(parts[False])} as given ({short}: {_told(own, parts[False])})"] if parts[False] else []
    return "; ".join(words)


def about_imagenet(cfg: Mapping[str, Any]) -> str:
    """Return words for a task that always takes ImageNet's mean and std, if timm's configuration of the model has others; else ""."""
    own = own_view(cfg.get("backbone", {})) if shows_photographs(cfg) else {}
    others = [f"{name} {own[name]}" for name in ("mean", "std") if own and own[name] != IMAGENET[name]]
    if not others:
        return ""
    told = f"timm's configuration of {_full_name(cfg['backbone']['model'])}: {', '.join(others)}"
    return f"pictures are seen with ImageNet's mean and std, as by the published detectors; {told}"


def _told(own: Mapping[str, Any], given: list[str]) -> str:
    return ", ".join(f"{name} {own.get(name, _CENTRE)}" for name in (text.split(" ")[0] for text in given))


def _configuration(model: Any) -> dict[str, Any] | None:
    if not isinstance(model, str) or not timm.is_model(model):
        return None
    try:
        found = timm.get_pretrained_cfg(model)
    except RuntimeError:  # a tag that timm does not have
        return None
    return None if found is None else found.to_dict()


def _full_name(model: str) -> str:
    known = _configuration(model) or {}
    return f"{known.get('architecture') or model.split('.')[0]}.{known['tag']}" if known.get("tag") else model


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, (tuple, list)) else value
