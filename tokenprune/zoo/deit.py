"""Reads the sizes of a plain DeiT from the shapes of its weights, and renames keys; importers of layouts with DeiT's blocks share this."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch

_HEAD_WIDTH = 64  # channels a head in DeiT of every size, DeiT-256 included
_HEADS = {1280: 16}  # heads by channels, where they are wider: ViT-H
_OF_VIT = ("patch_embed.", "norm.", "fc_norm.", "head.", "pos_embed", "cls_token")
_OF_BLOCK = re.compile(r"blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(?:weight|bias)")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def is_vit(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a file holds a plain ViT with a class token, whatever it holds beside that."""
    return all(key in state for key in ("patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.attn.qkv.weight"))


def foreign(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of a file that a plain ViT does not have, in their order."""
    return [key for key in state if not (_OF_BLOCK.fullmatch(key) if key.startswith("blocks.") else key.startswith(_OF_VIT))]


def backbone_of(state: Mapping[str, Tensor], file: str, **more: Any) -> dict[str, Any]:
    """Return the `backbone` group of a plain ViT with a class token, in timm's keys.

    Args:
        state: {key: tensor} of the whole model in timm's keys.
        file: Name of the file, for errors.
        more: Further settings of the group, such as `pool`.

    Raises:
        CheckpointMismatch: A tensor that tells a size is missing, or the position codes are no square.
    """
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    if missing := [key for key in needed if key not in state]:
        raise CheckpointMismatch(f"checkpoint {file} is no whole ViT: {', '.join(missing)} missing; take the authors' complete file")
    proj, positions = state["patch_embed.proj.weight"], state["pos_embed"].shape[1] - 1
    side, dim, patch = math.isqrt(positions), proj.shape[0], proj.shape[-1]
    if side * side != positions:
        raise CheckpointMismatch(f"checkpoint {file} has position codes for {positions} patches beside the class token; allowed: a square")
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    sizes = {"img_size": side * patch, "patch_size": patch, "embed_dim": dim, "depth": depth_of(state)}
    return {**sizes, "num_heads": _HEADS.get(dim, dim // _HEAD_WIDTH), "mlp_ratio": hidden / dim, **more}


def positions_of(backbone: Mapping[str, Any]) -> int:
    """Return N of a ViT at its own size, of a group `backbone` that gives the sides of image and patch."""
    return (backbone["img_size"] // backbone["patch_size"]) ** 2


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Return the number of blocks in a state of keys `blocks.I.*`, 0 for none."""
    return 1 + max((int(found[1]) for key in state if (found := _BLOCK.match(key))), default=-1)


def classes_of(state: Mapping[str, Tensor], file: str, head: str = "head") -> int:
    """Return the number of classes of a head.

    Raises:
        CheckpointMismatch: The file has no head of that name.
    """
    if f"{head}.weight" not in state:
        raise CheckpointMismatch(f"checkpoint {file} has no {head}.weight, the classification head; take the authors' complete file")
    return state[f"{head}.weight"].shape[0]


def renamed(state: Mapping[str, Tensor], rule: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Return a state under the keys that `rule` gives; keys for which it gives None are left out."""
    return {new: value for key, value in state.items() if (new := rule(key)) is not None}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with `prefix` and a dot before each key."""
    return {f"{prefix}.{key}": value for key, value in state.items()}


def number_in(value: Any) -> float | None:
    """Return the one number of a setting that training scripts store as a number or as a list of it; None for anything else."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
