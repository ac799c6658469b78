"""Imports classifiers fine-tuned by MAE's code, dense or under ToMe: plain ViT keys with the norm behind a mean over patches."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import register
from tokenprune.zoo.deit import backbone_of, classes_of, foreign, is_vit, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release


@register("layout", "mae")
class Mae(Layout):
    """Imports a ViT whose head reads the mean of all patches through `fc_norm`; it has no `norm`.

    ToMe adds no weights, so that the file does not say whether tokens are merged. Its authors merge `r` tokens at each block without
    proportional attention (`prop_attn`), and pool each token by its size (`mass`).
    """

    asks = {"r": "number of tokens that ToMe merges at each block (ViT-B 16, ViT-L 8, ViT-H 7 as published); 0 is the dense model"}
    offers = {"prop_attn": False}
    examples = {"r": 0}
    plain = True

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether the keys are those of a plain ViT, with `fc_norm` in the place of `norm`."""
        return is_vit(state) and not foreign(state) and "fc_norm.weight" in state and "norm.weight" not in state

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights.

        Raises:
            CheckpointMismatch: See `backbone_of`; or `r` is no whole number.
        """
        r = given["r"]
        if not isinstance(r, int) or r < 0:
            raise CheckpointMismatch(f"checkpoint {release.name}: r is {r!r}; allowed: 0 (the dense model) and more tokens a block")
        merging = {
            "selector": {"name": "tome"},
            "treatment": {"name": "merge", "proportional": bool(given["prop_attn"])},
            "schedule": {"name": "per_block", "remove": r, "start": 0, "align": False},
        }
        return Imported(
            settings={
                "task": {"name": self.task},
                "backbone": backbone_of(release.state, release.name, pool="avg"),
                **(merging if r else {}),
            },
            state=under("backbone", release.state),
            classes=classes_of(release.state, release.name),
        )
