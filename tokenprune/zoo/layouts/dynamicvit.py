"""Imports DynamicViT's files (Rao et al., NeurIPS 2021): DeiT of any size with three predictors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, number_in, renamed, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

_PREDICTOR = re.compile(r"score_predictor\.(\d+)\.(in_conv|out_conv)\.(.+)")
_PART = {"in_conv": "into", "out_conv": "out"}
_LVVIT = ("patch_embed.conv1.weight", "patch_embed.conv.0.weight", "aux_head.weight")
_BLOCKS = (3, 6, 9)


@register("layout", "dynamicvit")
class DynamicViTLayout(Layout):
    """Reads DeiT's keys and `score_predictor.K.{in_conv,out_conv}.*`, the predictor of stage K.

    The released DeiT files (DeiT-256, DeiT-S, DeiT-B) keep int(196 * .7^k) patch tokens from blocks 3, 6, 9 on. The released LV-ViT files
    are refused: LV-ViT is no model of timm.
    """

    offers = {"keep_rate": 0.7, "blocks": None}

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether there are predictors of DynamicViT's form."""
        return any(_PREDICTOR.match(key) for key in state)

    def known(self, release: Release) -> dict[str, Any]:
        """Return the keep rate and the blocks if the training script stored them."""
        args = release.args
        rate = number_in(args.get("base_rate", args.get("keep_rate")))
        found = {} if rate is None else {"keep_rate": rate}
        places = args.get("reduction_loc", args.get("pruning_loc"))
        return found if not isinstance(places, (list, tuple)) else {**found, "blocks": list(places)}

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights of a DeiT file.

        Raises:
            CheckpointMismatch: The backbone is LV-ViT or another that is no DeiT, or has more predictors than blocks that decide.
        """
        _refuse_others(release)
        blocks = list(given["blocks"] or _BLOCKS)
        stages = {int(found[1]) for key in release.state if (found := _PREDICTOR.match(key))}
        if stages != set(range(len(blocks))):
            raise CheckpointMismatch(
                f"checkpoint {release.name} has predictors {sorted(stages)}, and its blocks that decide are {blocks}; give one for each:"
                " blocks=[3,6,9]"
            )
        plain = {key: value for key, value in release.state.items() if not key.startswith("score_predictor.")}
        gates = renamed(release.state, lambda key: _gate_key(key, blocks))
        settings = {
            "backbone": backbone_of(plain, release.name),
            "selector": {"name": "dynamicvit"},
            "treatment": {"name": "remove"},
            "schedule": {"name": "stages", "keep_rate": given["keep_rate"], "blocks": blocks, "of": "original", "rounding": "reference"},
        }
        return Imported(settings, {**under("backbone", plain), **gates}, classes_of(plain, release.name))


def _refuse_others(release: Release) -> None:
    if any(key in release.state for key in _LVVIT):
        raise CheckpointMismatch(
            f"checkpoint {release.name} is DynamicViT on LV-ViT, which timm does not have: a stem of convolutions, no bias of q, k, v,"
            " residual branches halved, and a head for each token beside the class token's; allowed: DynamicViT on DeiT (deit-256, deit-s,"
            " deit-b)"
        )
    if "blocks.0.attn.qkv.weight" not in release.state:
        raise CheckpointMismatch(f"checkpoint {release.name} is DynamicViT on a backbone without DeiT's blocks; allowed: on DeiT")


def _gate_key(key: str, blocks: list[int]) -> str | None:
    found = _PREDICTOR.match(key)
    return None if found is None else f"selectors.{blocks[int(found[1])]}.gate.{_PART[found[2]]}.{found[3]}"
