"""What the authors' own code computes on weights that are filled by name: the full sets, where a development machine has them."""

import importlib.util
import json
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tokenprune
from tokenprune.backbones.vit import build_vit
from tokenprune.zoo.layout import Imported, converted
from tokenprune.zoo.release import read_release

ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def needed(path: str) -> Path:
    """Return a file of the full sets; skip the test where it is missing."""
    if not (ROOT / path).exists():
        pytest.skip(f"the full goldens are not here: {ROOT / path}")
    return ROOT / path


@cache
def _filler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill", needed("methods/fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(keys: str, model: str = "", salt: str = "dev") -> dict[str, Tensor]:
    """Return the state in the authors' keys that a file of keys lists, filled by name."""
    rows = json.loads(needed(keys).read_text())
    return _filler().filled(rows["state_dict"] if isinstance(rows, dict) else rows, salt, model)


def noise(key: str, shape: tuple[int, ...], salt: str = "dev") -> Tensor:
    """Return the filler's noise in double."""
    return _filler().noise(key, shape, salt)


def golden(path: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file."""
    return load_file(needed(path))


def pictures() -> Tensor:
    """Return the four pictures of part 2, normalised, (4,3,224,224)."""
    pixels = golden("methods/dev/input4_uint8.safetensors")
    (values,) = pixels.values()
    values = values if values.shape[1] == 3 else values.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    return (values.float() / 255 - mean) / std


def imported(folder: Path, state: Mapping[str, Tensor], name: str = "best.pth", args: Any = None, **given: Any) -> Imported:
    """Save a state as the authors' training scripts do, read it again, and return it in this project's words."""
    content = {"model": dict(state), "optimizer": {"state": {}, "param_groups": []}, "epoch": 299, "args": Namespace(**(args or {}))}
    torch.save(content, folder / name)
    return converted(read_release(folder / name), given)


def built(found: Imported, execution: str = "auto", **selector: Any) -> tokenprune.PrunedViT:
    """Return the pruned model of an imported file, its weights loaded strictly; further arguments are options of its selector."""
    settings = found.settings
    axes = {name: settings.get(name) for name in ("selector", "treatment", "schedule")}
    if axes["selector"] is not None:
        axes["selector"] = {**axes["selector"], **selector}
    model = tokenprune.prune(build_vit(settings["backbone"], found.classes), **axes, execution=execution).eval()
    missing, left = model.load_state_dict(found.state, strict=False)
    assert [key for key in missing if not key.startswith(found.added or ("\0",))] == [] and left == []
    return model
