"""The class token that a selector reads where the model's own is missing or not wanted."""

import torch
from torch import Tensor, nn

from tokenprune.errors import IncompatiblePairing

SOURCES = ("learned", "random", "mean")


class ClassToken(nn.Module):
    """Puts a class token first among the prefix tokens, in the place of the model's own if it has one.

    `random` is a new parameter (SViT's supplement D, dense tasks), `mean` the mean of the patch tokens.
    """

    def __init__(self, source: str, dim: int, replaces: bool) -> None:
        super().__init__()
        self.replaces = replaces
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02)) if source == "random" else None

    def forward(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Return the prefix (B,P,C) with the class token in front, given patch tokens (B,N,C)."""
        first = tokens.mean(1, keepdim=True) if self.token is None else self.token.expand(len(tokens), -1, -1)
        return torch.cat([first, prefix[:, int(self.replaces) :]], 1)


def class_token(source: str, dim: int, has_own: bool, reader: str | None) -> ClassToken | None:
    """Return the module for a selector named `reader` that reads a class token (None: it reads none); None where nothing is to be added.

    Raises:
        IncompatiblePairing: `learned` on a model without a class token.
    """
    if reader is None:
        return None
    if source == "learned" and not has_own:
        raise IncompatiblePairing(
            f"selector {reader!r} scores by the class token, and this model has none: use cls=random (as SViT does on dense"
            " tasks), cls=mean, or a selector that needs no class token"
        )
    return None if source == "learned" else ClassToken(source, dim, has_own)
