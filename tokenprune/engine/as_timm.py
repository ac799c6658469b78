"""What timm's tools read of a model: its configuration, its classifier, groups of parameters and gradient checkpointing."""

import re
from typing import Any

from torch import nn

_PREFIX = "backbone."  # of the parameters of the timm model
_ANCHOR = re.compile(r"(^|\||\()\^")


class TimmTools:
    """Hands on attributes and methods of the timm model `backbone`, with the names of its parameters as they are in the pruned model."""

    backbone: Any
    family: Any

    @property
    def pretrained_cfg(self) -> Any:
        """Return timm's configuration of the pretrained weights: mean, std, input size, crop, interpolation; {} where there is none."""
        return getattr(self.backbone, "pretrained_cfg", None) or {}

    @property
    def default_cfg(self) -> Any:
        """Return the same under its older name."""
        return getattr(self.backbone, "default_cfg", None) or self.pretrained_cfg

    @property
    def num_classes(self) -> int:
        """Return the number of outputs of the classification head, 0 without one."""
        return self.backbone.num_classes

    @property
    def num_features(self) -> int:
        """Return C, the width of a token."""
        return self.backbone.num_features

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels."""
        return self.family.patch

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that take no weight decay."""
        return {_PREFIX + name for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the names of parameters, by depth, for layer-wise learning rates.

        Selectors and other new parts match none of them. timm counts such parameters to the last group, as it does a new head.

        Args:
            coarse: Whether the groups are coarse.
        """
        return {
            name: _renamed(spec) if isinstance(spec, str) else [(_renamed(pattern), order) for pattern, order in spec]
            for name, spec in self.backbone.group_matcher(coarse=coarse).items()
            if spec is not None
        }

    def get_classifier(self) -> nn.Module:
        """Return the classification head, or both heads of a distilled model."""
        return self.backbone.get_classifier()

    def reset_classifier(self, num_classes: int, *args: Any, **options: Any) -> None:
        """Put a new head with `num_classes` outputs in the place of the old one; further arguments are those of the timm model."""
        self.backbone.reset_classifier(num_classes, *args, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass instead of keeping their activations."""
        self.backbone.set_grad_checkpointing(enable)


def _renamed(pattern: str) -> str:
    """Return a pattern of names in the timm model as one of names in the pruned model."""
    unanchored = _ANCHOR.sub(r"\1", pattern)
    return rf"^{re.escape(_PREFIX)}(?:{unanchored})"
