"""Imports SViT's classification file (Liu et al., WACV 2024): a DeiT of torch's encoder layers with nine gates."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, depth_of, renamed, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_LAYER = re.compile(r"blocks\.(\d+)\.TransformerEncoderLayer\.(.+)")
_GATE = re.compile(r"selective_modules\.(\d+)\.(norm|mlp\.fc1|mlp\.fc2)\.(weight|bias)")
_TIMM = (("self_attn.in_proj_", "attn.qkv."), ("self_attn.out_proj.", "attn.proj."), ("linear1.", "mlp.fc1."), ("linear2.", "mlp.fc2."))
_PLACE = {"norm": 0, "mlp.fc1": 1, "mlp.fc2": 3}


def timm_key(key: str) -> str:
    """Return a key of SViT's backbone in timm's words; keys outside of its encoder layers stay as they are."""
    found = _LAYER.fullmatch(key)
    if found is None:
        return key
    part = found[2]
    for theirs, ours in _TIMM:
        part = part.replace(theirs, ours) if part.startswith(theirs) else part
    return f"blocks.{found[1]}.{part}"


def gate_key(key: str, first: int) -> str | None:
    """Return a key of gate K in this project's words, at block `first` + K; None for keys of no gate."""
    found = _GATE.fullmatch(key)
    return None if found is None else f"selectors.{first + int(found[1])}.gate.layers.{_PLACE[found[2]]}.{found[3]}"


@register("layout", "svit_classification")
class SViTClassification(Layout):
    """Reads `blocks.I.TransformerEncoderLayer.*` and `selective_modules.K.*`, the gate before block K + 3, where there is a head.

    The norms of the blocks have an eps of 1e-5, the final one 1e-6. The last gate may drop the class token. The authors judge gates drawn
    by Gumbel noise; `eval_mode=gumbel` draws so, and the default keeps a token if that is the more likely.
    """

    offers = {"eval_mode": "threshold"}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are encoder layers, gates and a class token, which SViT's detectors do not have."""
        return "cls_token" in state and any(map(_GATE.fullmatch, state)) and any(map(_LAYER.fullmatch, state))

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights of a file.

        Raises:
            CheckpointMismatch: There is no gate for each block from one on.
        """
        plain = {timm_key(key): value for key, value in release.state.items() if not key.startswith("selective_modules.")}
        stages = {int(found[1]) for key in release.state if (found := _GATE.fullmatch(key))}
        first = depth_of(plain) - len(stages)
        if stages != set(range(len(stages))) or first < 1:
            raise CheckpointMismatch(
                f"checkpoint {release.name} has gates {sorted(stages)} for {depth_of(plain)} blocks; allowed: one before each block from"
                " the second or a later one on; fetch it again"
            )
        gates = renamed(release.state, lambda key: gate_key(key, first))
        settings = {
            "backbone": backbone_of(plain, release.name, norm_eps=1e-5, final_norm_eps=1e-6),
            "selector": {"name": "svit", "drops_cls": True, "eval_mode": given["eval_mode"]},
            "treatment": {"name": "reactivate"},
            "schedule": {"name": "every_block", "start": first},
        }
        added = tuple(f"selectors.{first + stage}.threshold" for stage in sorted(stages))
        return Imported(settings, {**under("backbone", plain), **gates}, classes_of(plain, release.name), added=added)
