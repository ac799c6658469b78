"""The golden tests/golden/methods.json: what the authors' code of ten reduction methods computes with real weights on real pictures."""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import tokenprune
from tests.helpers.filled import SHARED, TRIMMED, fill
from tests.helpers.image_sets import real
from tokenprune.engine.state import TokenState

EVERY = 5  # of the 200 logits of a picture
GONE = 255  # in a map of owners


@cache
def runs() -> dict[str, dict[str, Any]]:
    """Return {name: entry}; an entry has `selector`, `treatment`, `schedule`, `fragile`, `counts`, `gmac`, `logits` and `own`."""
    return json.loads((TRIMMED / "methods.json").read_text())["runs"]


def full(name: str) -> dict[str, Tensor]:
    """Return the full golden of a run; skip the test where it is missing."""
    path = SHARED / "methods" / "dev" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"the full goldens are not here: {path}")
    return load_file(path)


@cache
def pictures() -> Tensor:
    """Return the sixteen real pictures, (16,3,224,224), as the authors' code got them; skip the test where they are missing."""
    path = real("vit_tiny_tin200") / "val.zip"
    if not path.is_file():
        pytest.skip(f"the real pictures are not here: {path}")
    found = []
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))[::125]
        for name in names:
            image = Image.open(archive.open(name)).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
            found.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255)
    return (torch.stack(found) - 0.5) / 0.5


@cache
def real_vit(dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """Return the ViT-Tiny with its really trained weights."""
    (weights,) = Path(real("vit_tiny_tin200")).glob("*.safetensors")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=200)
    vit.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return vit.eval().to(dtype)


@cache
def filled_vit() -> VisionTransformer:
    """Return a narrow ViT of 12 blocks and 196 positions, filled by name, in double."""
    size = {"img_size": 224, "patch_size": 16, "embed_dim": 48, "depth": 12, "num_heads": 3, "num_classes": 12}
    vit = VisionTransformer(**size)
    vit.load_state_dict({key: fill(key, value.shape) for key, value in vit.state_dict().items()})
    return vit.eval().double()


def model_of(entry: dict[str, Any], vit: VisionTransformer, execution: str = "auto") -> tokenprune.PrunedViT:
    """Return a model as a run of the golden has it."""
    schedule = dict(entry["schedule"])
    if "keep" in schedule:  # JSON has texts for keys
        schedule["keep"] = {int(block): keep for block, keep in schedule["keep"].items()}
    return tokenprune.prune(vit, entry["selector"], entry["treatment"], schedule, execution=execution).eval()


def executions(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the executions that a run can have."""
    return ("masked", "packed") if entry["selector"]["name"] == "algm" else ("masked", "gathered", "packed")


def computed(model: tokenprune.PrunedViT, images: Tensor) -> tuple[Tensor, list[list[int]]]:
    """Return the logits (B,K) and, for each image, the tokens after each block, class token included."""
    with torch.no_grad():
        outputs = model.encode(images)
        logits = model.logits(outputs)
    return logits, torch.stack([used.fed.cpu() for used in outputs.usage], 1).tolist()


def expected_counts(entry: dict[str, Any], images: int) -> list[list[int]]:
    """Return the counts of each image; a golden has one row where all are equal."""
    rows = entry["counts"]
    return rows[:images] if len(rows) > 1 else rows * images


def ranks(state: TokenState) -> Tensor:
    """Return for each position (B,N) the place in the sequence, from 1, of the slot that holds it, in the order of decisions; 255: none."""
    B, N = state.live.shape[0], state.positions
    order = state.order if state.order is not None else torch.argsort((~state.live).to(torch.uint8), dim=1, stable=True)
    place = torch.full((B, N), GONE)
    for image in range(B):
        for rank, slot in enumerate(order[image].tolist(), 1):
            if state.live[image, slot]:
                place[image, state.index[image, slot]] = rank
    return place if state.owner is None else place.gather(1, state.owner)


def same_groups(found: Tensor, wanted: Tensor) -> bool:
    """Tell whether two maps of owners (N,) have the same positions together, and the same ones gone."""
    together = torch.equal(found[:, None] == found[None], wanted[:, None] == wanted[None])
    return together and torch.equal(found == GONE, wanted == GONE)
