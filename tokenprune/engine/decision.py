"""What a selector says of the slots of a sequence, and which of them a list of slots names.

Shapes: B images, M slots, K kept and R dropped ones, P prefix tokens, C channels, h heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tokenprune.errors import TokenPruneError


def mask_of(slots: Tensor, length: int) -> Tensor:
    """Return the mask (B,M) of slots (B,K) among M = `length`."""
    return torch.zeros(slots.shape[0], length, dtype=torch.bool, device=slots.device).scatter_(1, slots, 1)


def changed_copy(record: Any, changes: Mapping[str, Any], *left: str) -> Any:
    """Return a copy of a frozen dataclass without the fields that are `left` to be made; `dataclasses.replace` is 10 times slower."""
    copy = object.__new__(type(record))
    copy.__dict__.update(record.__dict__)
    copy.__dict__.update(changes)
    for name in left:
        copy.__dict__.pop(name, None)
    return copy


class Branch(NamedTuple):
    """Says which parts of the block about to run an image has switched on, as 0/1 gates (AdaViT).

    Attributes:
        heads: (B,h) attention heads.
        sublayers: (B,2) attention and MLP.
        narrows: Whether the MLP sees the channels of the heads that are on only.
    """

    heads: Tensor
    sublayers: Tensor
    narrows: bool = False


@dataclass(frozen=True)
class Decision:
    """What a selector says about M slots.

    keep (B,M) bool; target (B,M) long, the slot a dropped token is merged into (ToMe); score (B,M) importance; weight (B,M) of dropped
    tokens in a fused one, the score if None, or of all slots in the mean of a `target`, their mass if None; gate (B,M) the
    straight-through 0/1 value that carries the gradient in training; log_prob (B,M); traits: per-slot memory (B,M,...) to store;
    notes: {name: payload} that losses and analytics read (TokenState.aux); slots (B,K) long: kept slots in the order that they will have,
    where K is known without a look at the device; gone (B,R) long: the other slots, where they are known beside `slots`; branch: see
    `Branch` (site `before` only); mix (B,K,M): K new tokens, weighted sums of `values`; values (B,M,C): what new tokens and the means of
    a `target` are made of, the tokens if None; prefix_keep (B,P) bool: prefix tokens that stay, those of before if None (site `before`
    only); prefix_gate (B,P): their gate in training.

    Beside `target`: vanish (B,M) bool, dropped slots that go nowhere (DiffRate prunes some and merges others), none if None; carry (B,M),
    factor of a slot's mass on its way to the target, 1 if None; chain, how many targets may follow each other until a kept slot is met
    (MCTF: 2). order (B,K) long: slots in the order that later decisions count them in (`Observation.ranked`), the kept ones first; not for
    site `rows`. It is part of methods that split tokens by rank; None leaves the order of before. into (B,R') long: the targets of the
    first R' slots of `gone`, where the selector knows them; all others of `gone` vanish, `target` and `vanish` are None, and `carry` is
    (B,R').
    """

    keep: Tensor
    target: Tensor | None = None
    score: Tensor | None = None
    weight: Tensor | None = None
    gate: Tensor | None = None
    log_prob: Tensor | None = None
    traits: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    slots: Tensor | None = None
    gone: Tensor | None = None
    branch: Branch | None = None
    mix: Tensor | None = None
    values: Tensor | None = None
    prefix_keep: Tensor | None = None
    prefix_gate: Tensor | None = None
    vanish: Tensor | None = None
    carry: Tensor | None = None
    chain: int = 1
    order: Tensor | None = None
    into: Tensor | None = None

    @classmethod
    def between(cls, slots: Tensor, gone: Tensor, live: Tensor | None = None, **fields: Any) -> "Decision":
        """Return the decision that keeps `slots` (B,K) and drops `gone` (B,R).

        Where every slot is live, `live` is None (`Observation.mask`): these are all slots then, and the mask of what is kept is made where
        somebody reads it. Else the engine reads the mask alone, live slots (B,M) but for those that are gone.
        """
        if live is not None:
            return cls(live.scatter(1, gone, 0), slots=slots, gone=gone, **fields)
        decision = cls(slots, slots=slots, gone=gone, **fields)
        decision.__dict__.pop("keep")
        return decision

    if not TYPE_CHECKING:  # which knows the fields

        def __getattr__(self, name: str) -> Tensor:
            """Return the mask of what is kept, of a decision that was made without one.

            Raises:
                AttributeError: of any other name.
            """
            if name != "keep" or self.__dict__.get("gone") is None:
                raise AttributeError(f"a decision has no {name}")
            made = mask_of(self.slots, self.slots.shape[1] + self.gone.shape[1])
            object.__setattr__(self, name, made)
            return made

    def replace(self, **changes: Any) -> "Decision":
        """Return a copy with some fields changed; a mask that nobody has read is not made."""
        return changed_copy(self, changes)

    @property
    def named(self) -> bool:
        """Tell whether the selector has said into which slots the dropped ones are merged."""
        return self.target is not None or self.into is not None

    @property
    def targets(self) -> Tensor:
        """(B,M) slots into which the dropped ones are merged; another slot's is itself, or of no meaning."""
        if self.target is not None:
            return self.target
        if self.gone is None or self.into is None:
            raise TokenPruneError("a decision without targets cannot be merged: give `target` (B,M), or `into` (B,R) beside `gone`")
        itself = torch.arange(self.keep.shape[1], device=self.gone.device).expand(self.keep.shape)
        return itself.scatter(1, self.gone[:, : self.into.shape[1]], self.into)

    @property
    def vanishing(self) -> int:
        """How many of `gone` have no target, where some have one."""
        return 0 if self.gone is None or self.into is None else self.gone.shape[1] - self.into.shape[1]

    @property
    def masked(self) -> bool:
        """Tell whether the mask of what is kept is there already."""
        return "keep" in self.__dict__
