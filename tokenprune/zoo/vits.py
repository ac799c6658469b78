"""Reads from keys and shapes which plain ViT the tensors of a published file are of."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch

HEAD_WIDTH = 64  # channels of an attention head in every ViT, DeiT and MAE but the huge ones
_HEADS = {1280: 16}  # by C: ViT-H
_EMBEDDING = ("patch_embed.proj.weight", "pos_embed", "cls_token")
_DISTILLED = {192: "deit_tiny_distilled_patch16_224", 384: "deit_small_distilled_patch16_224", 768: "deit_base_distilled_patch16_224"}
_OF_VIT = ("patch_embed.", "blocks.", "norm.", "fc_norm.", "head.", "head_dist.", "pos_embed", "cls_token", "dist_token")


def is_vit(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a file holds a plain ViT with a class token, whatever it holds beside that."""
    return all(key in state for key in _EMBEDDING) and "blocks.0.attn.qkv.weight" in state


def foreign(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of a file that a plain ViT does not have, in their order."""
    return [key for key in state if not key.startswith(_OF_VIT)]


def backbone_of(state: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """Return the `backbone` group of a plain ViT with a class token.

    Args:
        state: {key: tensor} in timm's keys; other keys are ignored.
        heads: Number of attention heads, which keys do not tell; None takes one for each 64 channels, and 16 for ViT-H.

    Raises:
        CheckpointMismatch: A tensor that tells a size is missing or fits no ViT.
    """
    try:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        hidden, prefix = state["blocks.0.mlp.fc1.weight"].shape[0], 1 + ("dist_token" in state)
        side = math.isqrt(state["pos_embed"].shape[1] - prefix)
    except (KeyError, ValueError) as error:
        raise CheckpointMismatch(f"the file is of no plain ViT: {error} is missing or has a wrong shape; fetch the file again") from error
    if side**2 + prefix != state["pos_embed"].shape[1]:
        raise CheckpointMismatch(
            f"pos_embed has {state['pos_embed'].shape[1]} codes, {prefix} of them for no patch; allowed: a square grid"
        )
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
    sizes = {
        "img_size": side * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": heads or _HEADS.get(width, width // HEAD_WIDTH),
        "mlp_ratio": hidden / width,
    }
    pooled = {"pool": "avg"} if "fc_norm.weight" in state else {}
    return {**sizes, **pooled} if prefix == 1 else {**_distilled(sizes), **pooled}


def classes_of(state: Mapping[str, Tensor], key: str = "head.weight") -> int:
    """Return the number of outputs of a head, 0 without one."""
    return state[key].shape[0] if key in state else 0


def _distilled(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the group of a DeiT with a distillation token, which is a model of timm by name."""
    name = _DISTILLED.get(sizes["embed_dim"])
    if name is None or (sizes["depth"], sizes["patch_size"]) != (12, 16):
        known = ", ".join(_DISTILLED.values())
        raise CheckpointMismatch(
            f"the file is of a distilled ViT of {sizes['embed_dim']} channels, {sizes['depth']} blocks and patches of"
            f" {sizes['patch_size']} px; allowed: {known}"
        )
    return {"model": name, "img_size": sizes["img_size"], "patch_size": sizes["patch_size"]}
