"""Imports Evo-ViT's files (Xu et al., AAAI 2022): DeiT with parts under names of their own and a head on the mean of all patches."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, renamed, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_OWN = re.compile(r"(norms|projs|qks|vs)\.(\d+)\.(?:qk\.|v\.)?(weight|bias)")
_TIMM = {"norms": "norm1", "projs": "attn.proj"}
_TRAINING = ("head_cls.", "norm_cls.")


@register("layout", "evo_vit")
class EvoViTLayout(Layout):
    """Reads `norms`, `qks`, `vs`, `projs` beside DeiT's blocks.

    The released class keeps half of the positions from block 4 on, chosen at blocks 4 and 8 at test time (`stage_wise=false`: at every
    block). Its head reads the mean of all patches; the class token's head is of training.
    """

    offers = {"stage_wise": True, "rate": 0.5}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether queries and keys are apart from values, as in Evo-ViT's DeiT."""
        return "qks.0.qk.weight" in state and "vs.0.v.weight" in state

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights of a file.

        Raises:
            CheckpointMismatch: A part of a block is missing, or the backbone is LeViT.
        """
        state = _timm_state(release)
        settings = {
            "backbone": backbone_of(state, release.name, pool="avg"),
            "selector": {"name": "evo_vit"},
            "treatment": {"name": "reactivate"},
            "schedule": {"name": "constant", "rate": given["rate"], "start": 4, "stage_wise_from": 0.0 if given["stage_wise"] else None},
        }
        reason = "the class token's own head, which training alone reads; the authors judge the mean of the patches"
        left_out = {prefix: reason for prefix in _TRAINING if any(key.startswith(prefix) for key in release.state)}
        return Imported(settings, under("backbone", state), classes_of(state, release.name), left_out=left_out)


def _timm_state(release: Release) -> dict[str, Tensor]:
    if "patch_embed.proj.weight" not in release.state:
        raise CheckpointMismatch(f"checkpoint {release.name} is Evo-ViT without a DeiT's patch embedding, such as LeViT; allowed: on DeiT")
    joined = renamed(release.state, _timm_key)
    for key in [key for key in release.state if key.startswith("qks.")]:
        number, kind = key.split(".")[1], key.rsplit(".", 1)[1]
        if (values := release.state.get(f"vs.{number}.v.{kind}")) is None:
            raise CheckpointMismatch(f"checkpoint {release.name} has {key}, and vs.{number}.v.{kind} is missing; fetch it again")
        joined[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([release.state[key], values])
    return joined


def _timm_key(key: str) -> str | None:
    if (found := _OWN.fullmatch(key)) is not None:
        return f"blocks.{found[2]}.{_TIMM[found[1]]}.{found[3]}" if found[1] in _TIMM else None
    if key.startswith(_TRAINING):
        return None
    return f"fc_{key}" if key.startswith("norm.") else key
