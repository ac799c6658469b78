"""Holds what is shown of a picture: what each model did with it, and the blocks in which nothing changed joined to one frame."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.tasks.pictures import Picture


@dataclass(frozen=True)
class Entry:
    """Holds what one model did with a picture.

    Attributes:
        label: Name of its method.
        about: Its treatment and schedule in words.
        picture: The picture with `owners`, `tokens` and `gmac`.
        notes: What a reader must know of the model.
        dense: Whether the model keeps every token.
    """

    label: str
    about: str
    picture: Picture
    notes: tuple[str, ...] = ()
    dense: bool = False


@dataclass(frozen=True)
class Shown:
    """Holds one picture and what each model did with it.

    Attributes:
        name: Name of the picture, such as its file's.
        entries: One or more entries.
    """

    name: str
    entries: tuple[Entry, ...]

    @property
    def dense(self) -> Entry | None:
        """Return the entry of the dense model, if there is one."""
        return next((entry for entry in self.entries if entry.dense), None)

    @property
    def depth(self) -> int:
        """Return the largest number of blocks."""
        return max(len(entry.picture.used) for entry in self.entries)


@dataclass(frozen=True)
class Frame:
    """Holds consecutive blocks of one model that use the same tokens in the same groups.

    Attributes:
        first: The first of these blocks.
        last: The last of them.
        owners: Who speaks for each cell, (H,W) int32; -1 for nobody.
        used: Cells whose own token is in the blocks' attention, (H,W) bool.
        tokens: Tokens in their attention.
    """

    first: int
    last: int
    owners: Tensor
    used: Tensor
    tokens: int

    @property
    def gone(self) -> Tensor:
        """Return the cells that no token of these blocks speaks for, (H,W) bool."""
        return self.owners < 0

    @property
    def groups(self) -> dict[int, Tensor]:
        """Return the cells (H,W) bool of each token that speaks for two or more, by the number of its position."""
        labels, counts = self.owners[self.owners >= 0].unique(return_counts=True)
        return {int(label): self.owners == label for label in labels[counts > 1]}

    @property
    def placeless(self) -> int:
        """Return the number of tokens without a place in the picture: fused or mixed ones, or places in a padding."""
        return self.tokens - int(self.used.sum())

    @property
    def blocks(self) -> str:
        """Return the blocks in words."""
        return f"block {self.first}" if self.first == self.last else f"blocks {self.first} to {self.last}"

    @property
    def counts(self) -> str:
        """Return the tokens and groups in words."""
        cells, groups = self.owners.numel(), len(self.groups)
        merged = f", {groups} of them merged" if groups else ""
        apart = f", and {self.placeless} without a place in the picture" if self.placeless > 0 else ""
        return f"{int(self.used.sum())} of {cells} tokens{merged}{apart}"


def frames(picture: Picture) -> Iterator[Frame]:
    """Yield the frames of a picture that was recorded with owners.

    Raises:
        ValueError: It was recorded without.
    """
    if picture.owners is None or picture.tokens is None:
        raise ValueError("the picture has no owners; record it with measure.usage.record(model, owners=True)")
    first = 0
    for block in range(1, len(picture.used) + 1):
        if block == len(picture.used) or not _same(picture, first, block):
            yield Frame(first, block - 1, picture.owners[first], picture.used[first], picture.tokens[first])
            first = block


def _same(picture: Picture, one: int, other: int) -> bool:
    owners, tokens = picture.owners, picture.tokens
    if owners is None or tokens is None:
        return False
    return tokens[one] == tokens[other] and torch.equal(owners[one], owners[other]) and torch.equal(picture.used[one], picture.used[other])


def hue(label: int) -> int:
    """Return the hue in degrees of the group of a position: the same in every block, neighbours far apart."""
    return round(label * 0.61803 % 1 * 360)
