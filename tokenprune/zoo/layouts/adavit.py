"""Imports AdaViT's file (Meng et al., CVPR 2022): a DeiT with linear policies for tokens, heads and sub-layers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_POLICY = re.compile(r"blocks\.(\d+)\.(attn\.token_select|head_select|layer_select)\.mlp_head\.(weight|bias)")
_OURS = {"attn.token_select": "patches", "head_select": "heads", "layer_select": "sublayers"}
_SPLIT = ("query", "key", "value")


@register("layout", "adavit")
class AdaViT(Layout):
    """Reads DeiT's blocks, with `query`, `key`, `value` apart or in one `qkv`, and `token_select`, `head_select`, `layer_select`.

    The policy for tokens reads the tokens behind the block's own norm. Here it reads them without that norm's scale and shift, so these are
    folded into its weights: w' = w * gamma, b' = b + w . beta.
    """

    offers = {"threshold": 0.5, "token_threshold": 0.6}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are policies for tokens or heads."""
        return any(_POLICY.fullmatch(key) for key in state)

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights of a file.

        Raises:
            CheckpointMismatch: The backbone is no DeiT, blocks lack a policy for tokens, or those for heads and sub-layers do not begin at
                the same block.
        """
        state = joined(release)
        backbone, first = backbone_of(state, release.name), _first_that_switches(release)
        policies = [_policy(release.state, key) for key in release.state if _POLICY.fullmatch(key)]
        settings = {
            "backbone": backbone,
            "selector": {"name": "adavit", "variant": "released", "keep_layers": first, **given},
            "treatment": {"name": "reactivate"},
            "schedule": {"name": "free", "start": 0},
        }
        return Imported(settings, {**under("backbone", state), **dict(policies)}, classes_of(state, release.name), {"crop_pct": 0.9})


def joined(release: Release) -> dict[str, Tensor]:
    """Return the backbone's state with queries, keys and values in one layer each.

    Raises:
        CheckpointMismatch: One of the three is missing, or there is no DeiT.
    """
    state = {key: value for key, value in release.state.items() if not _POLICY.fullmatch(key)}
    for key in [key for key in state if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{part}.") for part in _SPLIT]
        if missing := [part for part in parts if part not in state]:
            raise CheckpointMismatch(f"checkpoint {release.name} has {key}, and {', '.join(missing)} is missing; fetch it again")
        state[key.replace(".query.", ".qkv.")] = torch.cat([state.pop(part) for part in parts])
    if "patch_embed.proj.weight" not in state:
        raise CheckpointMismatch(f"checkpoint {release.name} is AdaViT without a DeiT's patch embedding, such as T2T-ViT; allowed: on DeiT")
    return state


def _first_that_switches(release: Release) -> int:
    """Return the first block that has policies for heads and sub-layers, all later ones having them, too."""
    found = {part: {int(m[1]) for key in release.state if (m := _POLICY.fullmatch(key)) and m[2] == part} for part in _OURS}
    depth = len({key.split(".")[1] for key in release.state if key.startswith("blocks.")})
    first = min(found["head_select"], default=depth)
    later = set(range(first, depth))
    if found["attn.token_select"] != set(range(depth)) or not found["head_select"] == found["layer_select"] == later:
        blocks = "; ".join(f"{part}: {sorted(numbers)}" for part, numbers in found.items())
        raise CheckpointMismatch(
            f"checkpoint {release.name} has policies before these of its {depth} blocks: {blocks}; allowed: token_select before each block,"
            " head_select and layer_select before each block from one on"
        )
    return first


def _policy(state: Mapping[str, Tensor], key: str) -> tuple[str, Tensor]:
    """Return a policy's tensor under its key here, the norm in front of a policy for tokens folded into it."""
    number, part, kind = _POLICY.fullmatch(key).groups()  # pyright: ignore[reportOptionalMemberAccess]
    value, norm = state[key], f"blocks.{number}.norm1"
    if part == "attn.token_select":
        weight = state[key.removesuffix(kind) + "weight"].double()
        folded = weight * state[f"{norm}.weight"].double()
        value = (folded if kind == "weight" else value.double() + weight @ state[f"{norm}.bias"].double()).to(value.dtype)
    return f"selectors.{number}.{_OURS[part]}.{kind}", value
