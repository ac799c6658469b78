"""What flows through the engine.

Shape legend, used everywhere: B images, N = H*W grid positions, M live-or-dead patch slots of the sequence, P prefix tokens (CLS,
registers), C channels, h heads. A *position* is a place in the grid, a *slot* a place in the sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.decision import Branch, Decision, changed_copy, mask_of
from tokenprune.engine.indexing import behind, put, recorded_by_jit, take
from tokenprune.engine.merged import Groups, Merger
from tokenprune.engine.packing import Packing
from tokenprune.engine.traits import Traits


@dataclass(frozen=True, eq=False)
class Known:
    """Facts about the tensors of a `TokenState` that are known without reading them, which would make the host wait for the device.

    The defaults of `TokenState.start`. A fact that is not known is False or None, and everything still works, only slower.
    `TokenState.replace` forgets the facts about a tensor that changes.

    Attributes:
        complete: Every slot is live. About `live`.
        slots: (B,K) the live slots, in the order that they will have once the others are gone, where K is known. About `live`.
        gone: (B,R) the slots that are not live, where R is known. About `live`.
        packing: The packing of `live`.
        in_grid_order: Slot n holds position n. About `index`.
        all_placed: Every slot, live or not, has a position. About `index`.
    """

    complete: bool = True
    slots: Tensor | None = None
    gone: Tensor | None = None
    packing: Packing | None = None
    in_grid_order: bool = True
    all_placed: bool = True

    def problems(self, state: "TokenState") -> list[str]:
        """Return which facts are wrong of a state."""
        live, index = state.live, state.index
        grid = torch.arange(state.positions, device=index.device).expand(len(index), -1)
        claims = {
            "complete": not self.complete or bool(live.all()),
            "slots": self.slots is None or _are_live_slots(self.slots, live),
            "gone": self.gone is None or _are_live_slots(self.gone, ~live),
            "packing": self.packing is None or self.packing.describes(live, state.prefix_count),
            "in_grid_order": not self.in_grid_order or torch.equal(index, grid),
            "all_placed": not self.all_placed or bool((index >= 0).all()),
        }
        return [name for name, right in claims.items() if not right]


__all__ = ["Decision", "Known", "Lengths", "TokenState", "as_lengths"]  # plugins of before look for Decision here

_ABOUT = {  # which facts are forgotten, by the field of TokenState that changes
    "live": {"complete": False, "slots": None, "gone": None, "packing": None},
    "index": {"in_grid_order": False, "all_placed": False},
}
_FACTS = frozenset(fact for facts in _ABOUT.values() for fact in facts)


def _are_live_slots(slots: Tensor, live: Tensor) -> bool:
    """Tell whether slots (B,K) are the live ones of a mask (B,M), each once."""
    once = bool((live.sum(1) == slots.shape[1]).all())
    return once and torch.equal(torch.zeros_like(live).scatter(1, slots, 1), live)


def _lists_live_first(order: Tensor, live: Tensor) -> bool:
    """Tell whether an order (B,K) begins with the live slots of a mask (B,M), each once."""
    counts = live.sum(1, keepdim=True)
    first = torch.arange(order.shape[1], device=order.device) < counts
    once = torch.zeros_like(live, dtype=torch.long).scatter_add(1, order, first.long())
    return torch.equal(once, live.long())


Lengths = Tensor | tuple[int, int]  # (B,) tokens of each image, or B and T for T in each


def as_lengths(lengths: Lengths) -> Tensor:
    """Return the tokens of each image as a tensor (B,)."""
    return lengths if isinstance(lengths, Tensor) else torch.full((lengths[0],), lengths[1], device="cpu")


@dataclass(frozen=True)
class TokenState:
    """All data of a forward pass between two blocks; immutable, so that the engine can stop and resume.

    `prefix` and `tokens` are made of `joined`, and `live` of what is known of it, where they are first read.

    B images, P prefix tokens, M slots, N grid positions, C channels.

    Attributes:
        prefix: (B,P,C) class and register tokens.
        tokens: (B,M,C) patch tokens.
        index: (B,M) grid position of each slot; -1 for fused tokens and padding.
        live: (B,M) bool, False for slots that were dropped.
        grid: (H,W) with H*W = N.
        canvas: (B,N,C) last values of positions that left the sequence, but for those in `retired`.
        retired: ((index (B,R), tokens (B,R,C)), ...) positions that left since, with their last values; `dense` writes all of them at once.
        mass: (B,M) number of tokens merged into each slot.
        mergers: What decisions have merged, in turn, from which `owner` is computed where it is read.
        gate: (B,M) keep gate of the last decision.
        traits: {name: (B,P+N,...)} values that selectors store for each position.
        pixels: (B,3,h,w) the input images, padded or cut to whole patches; h and w are multiples of H and W.
        rope: Rotary codes (N,2d), (depth,h,N,2d), or one (1 or h,N,2d) a block.
        branch: See `Decision`.
        prefix_live: (B,P) bool, False for prefix tokens that were dropped; they stay in the sequence, unseen and unchanged. None: all live.
        prefix_gate: See `Decision`.
        aux: ((name, block, payload), ...) notes for losses and measurements.
        order: (B,K) slots in the order that decisions count them in, live ones first; None: the order of slots.
        groups: What the decision of the block that runs has merged, until dead slots are removed.
        joined: (B,P+M,C) prefix and tokens in one piece, where both are views of it.
        prefix_count: P.
        vanished: Whether a position may have no value at all: it was dropped, is not remembered, and no other token speaks for it.
        known: Facts about these tensors that need not be read from them.
    """

    prefix: Tensor
    tokens: Tensor
    index: Tensor
    live: Tensor
    grid: tuple[int, int]
    canvas: Tensor | None = None
    retired: tuple[tuple[Tensor, Tensor], ...] = ()
    mass: Tensor | None = None
    mergers: tuple[Merger, ...] = ()
    gate: Tensor | None = None
    traits: Mapping[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None
    rope: Tensor | tuple[Tensor, ...] | None = None
    branch: Branch | None = None
    prefix_live: Tensor | None = None
    prefix_gate: Tensor | None = None
    aux: tuple[tuple[str, int, Any], ...] = ()
    order: Tensor | None = None
    groups: Groups | None = None
    joined: Tensor | None = None
    prefix_count: int = 0
    vanished: bool = False
    known: Known = field(default_factory=Known)

    @classmethod
    def start(cls, prefix: Tensor, tokens: Tensor, grid: tuple[int, int], pixels: Tensor | None = None) -> "TokenState":
        """Return the state before block 0: every position live in its own slot."""
        B, N = tokens.shape[:2]
        index = torch.arange(N, device=tokens.device).expand(B, N)
        live = torch.ones(B, N, dtype=torch.bool, device=tokens.device)
        known = Known()  # torch.compile cannot trace the default
        return cls(prefix, tokens, index, live, grid, pixels=pixels, prefix_count=prefix.shape[1], known=known)

    if not TYPE_CHECKING:  # which knows the fields

        def __getattr__(self, name: str) -> Tensor:
            """Return a tensor that is made of others, now that somebody reads it.

            Raises:
                AttributeError: of any other name.
            """
            held = self.__dict__
            if name == "live" and "known" in held:
                slots = self.known.slots
                made = torch.ones_like(self.index, dtype=torch.bool) if slots is None else mask_of(slots, self.index.shape[1])
            elif name in ("prefix", "tokens") and held.get("joined") is not None:
                made = self.joined[:, : self.prefix_count] if name == "prefix" else self.joined[:, self.prefix_count :]
            else:
                raise AttributeError(f"TokenState has no {name}")
            object.__setattr__(self, name, made)
            return made

    @property
    def positions(self) -> int:
        """N, the number of grid positions."""
        return self.grid[0] * self.grid[1]

    @property
    def owner(self) -> Tensor | None:
        """(B,N) position that stands for each one, itself or that into which it was merged; None where nothing was merged."""
        if not self.mergers:
            return None
        owner = torch.arange(self.positions, device=self.index.device).expand(self.index.shape[0], self.positions)
        for merger in self.mergers:
            owner = merger.heirs(self.positions).gather(1, owner)
        return owner

    def replace(self, **changes: Any) -> "TokenState":
        """Return a copy with some fields, or facts of `known`, changed; facts about a changed tensor are forgotten unless given, too.

        `live=None` leaves the mask to be made of `complete` or `slots`, one of which is given beside it. `joined` stands for both prefix
        and tokens.

        Raises:
            TypeError: a field that does not exist.
        """
        changed, forgotten, given, unknown = {}, {}, {}, []
        for name, value in changes.items():  # one walk and no sets: this runs some 30 times a pass
            if name in _FIELDS:
                changed[name] = value
                if name in _ABOUT:
                    forgotten.update(_ABOUT[name])
            elif name in _FACTS:
                given[name] = value
            else:
                unknown.append(name)
        if unknown:
            raise TypeError(f"TokenState has no field {', '.join(sorted(unknown))}")
        left: tuple[str, ...] = ()
        if "joined" in changed:
            left = ("prefix", "tokens")
        elif "prefix" in changed or "tokens" in changed:
            parts = {"prefix": self.prefix, "tokens": self.tokens, "joined": None, **changed}
            changed = {**parts, "prefix_count": parts["prefix"].shape[1]}
        if not forgotten and not given:
            return changed_copy(self, changed, *left)
        changed["known"] = changed_copy(self.known, {**forgotten, **given})
        if "live" not in changed:
            changed["live"] = self.live  # before a fact is gone of which it is made
        return changed_copy(self, changed, *left, *(("live",) if changed["live"] is None else ()))

    def check(self) -> None:
        """Compare every fact of `known` with the tensors that it is about; this reads them, so only tests call it.

        Raises:
            RuntimeError: names the facts that are wrong.
        """
        wrong = self.known.problems(self)
        if self.joined is not None and not torch.equal(self.joined, torch.cat([self.prefix, self.tokens], 1)):
            wrong.append("joined")
        if self.order is not None and not _lists_live_first(self.order, self.live):
            wrong.append("order")
        if wrong:
            B, M = self.live.shape
            raise RuntimeError(f"TokenState.known is wrong about {', '.join(wrong)} of {B} images with {M} slots on a grid of {self.grid}")

    def sequence(self) -> Tensor:
        """Return prefix and tokens as one sequence (B,P+M,C), not to be written to."""
        if self.joined is not None:
            return self.joined
        return torch.cat([self.prefix, self.tokens], 1) if self.prefix_count else self.tokens

    def with_sequence(self, x: Tensor) -> "TokenState":
        """Return the state with prefix and tokens taken from x (B,P+M,C)."""
        return changed_copy(self, {"joined": x}, "prefix", "tokens")  # `replace` would ask of each name what it is about

    def holder(self) -> tuple[Tensor, int]:
        """Return the tensor that holds the tokens, the joined sequence or they alone, and their first place in it: no copy is made."""
        return (self.tokens, 0) if self.joined is None else (self.joined, self.prefix_count)

    def as_holder(self, x: Tensor) -> dict[str, Tensor]:
        """Return what `replace` takes to put another tensor in the place of that of `holder`."""
        return {"tokens" if self.joined is None else "joined": x}

    def packed(self) -> Packing:
        """Return where the live rows are: one look at the device a selection, none where every slot is live."""
        (B, M), P = self.index.shape, self.prefix_count
        if self.known.complete:
            return Packing(self.live, P, (P + M,) * B)
        return self.known.packing if self.known.packing is not None else Packing.of(self.live, P)

    def lengths(self) -> Tensor:
        """Return the number of live tokens per image (B,), prefix included: on the CPU if known without asking the device."""
        return as_lengths(self.counted())

    def counted(self) -> Lengths:
        """Return what `lengths` does, as (B, T) where all images have T tokens: no step is made for it then."""
        (B, M), P = self.index.shape, self.prefix_count
        if self.known.complete:
            return B, M + P
        if self.known.packing is not None and self.known.packing.lengths:
            return torch.tensor(self.known.packing.lengths)
        return self.live.sum(1) + P

    def counts(self) -> Tensor:
        """Return the number of live patch slots per image (B,): on the CPU if known without asking the device."""
        return self.lengths() - self.prefix_count

    def present(self) -> Tensor:
        """Return (B,N) bool: positions whose value is held by a live slot, their own or their owner's."""
        B, N = self.index.shape[0], self.positions
        if self.known.in_grid_order:
            here = self.live
        else:
            here = put(self.live.new_zeros(B, N), self.index, self.live, everywhere=self.known.all_placed)
        owner = self.owner
        return here if owner is None else here.gather(1, owner)

    def dense(self) -> Tensor:
        """Return the map (B,N,C): the latest value of every position; merged positions show their owner's value."""
        values = self.tokens
        if not self.known.in_grid_order:
            (B, _, C), N = self.tokens.shape, self.positions
            base = self.canvas if self.canvas is not None else self.tokens.new_zeros(B, 1, C).expand(-1, N, -1)
            index, tokens = self.index, self.tokens
            if self.retired:  # positions that are not here any more
                index = torch.cat([index, *(places for places, _ in self.retired)], 1)
                tokens = torch.cat([tokens, *(left for _, left in self.retired)], 1)
            values = put(base, index, tokens, everywhere=self.known.all_placed)
        owner = self.owner
        return values if owner is None else take(values, owner)

    def with_dense(self, map_: Tensor) -> "TokenState":
        """Return the state with tokens and canvas taken from a map (B,N,C); slots without a position keep their value."""
        taken = take(map_, self.index.clamp(min=0))
        tokens = taken.where((self.index >= 0).unsqueeze(-1), self.tokens)
        return self.replace(tokens=tokens, canvas=None if self.canvas is None else map_, retired=())

    def rows_of(self, slots: Tensor) -> Tensor:
        """Return the tokens of slots (B,K), (B,K,C)."""
        x, first = self.holder()
        return take(x, slots + first)

    def trait(self, name: str, missing: float = 0.0) -> Tensor:
        """Return a trait per slot (B,M,...); slots without a position read `missing`."""
        return Traits.of(self.traits).at_slots(name, self, missing)

    def with_trait(self, name: str, values: Tensor, where: Tensor | None = None) -> "TokenState":
        """Store values (B,M,...) at the slots' positions, where `where` (B,M) is true; (B,P+M,...) are the prefix tokens', too."""
        return self.replace(traits=Traits.of(self.traits).stored(name, values, self, where))

    def expand(self) -> "TokenState":
        """Bring every position and prefix token back, in raster order; fused tokens, which have no place, leave."""
        if self.known.in_grid_order and not self.mergers:
            left = dict.fromkeys(("live", "mass", "gate", "canvas", "prefix_live", "prefix_gate", "order"))
            return self.replace(complete=True, retired=(), **left)
        fresh = TokenState.start(self.prefix, self.dense(), self.grid, self.pixels)
        return fresh.replace(traits=self.traits, aux=self.aux, rope=self.rope)

    def compact(self, slots: Tensor, real: Tensor | None, remember: bool) -> "TokenState":
        """Keep only `slots` (B,K), live where `real` (None: everywhere); with `remember` what was there goes to the canvas first.

        From then on the slots lie in the order of decisions.
        """
        canvas, retired = self._left() if remember else (None, ())
        mass = None if self.mass is None else take(self.mass, slots)
        index = slots if self.known.in_grid_order else take(self.index, slots)
        return self.replace(
            **self._kept(slots),
            index=index if real is None else index.where(real, -1),
            live=real,
            canvas=canvas,
            retired=retired,
            mass=mass if mass is None or real is None else mass.where(real, 1.0),
            gate=None if self.gate is None else take(self.gate, slots),
            order=None,
            groups=None,
            complete=real is None,
            all_placed=real is None and self.known.all_placed,
        )

    def _left(self) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        """Return `canvas` and `retired` as they are once dead slots are gone: no map is copied where the dead slots are known."""
        gone = self.known.gone
        if gone is None or self.canvas is None or not self.known.all_placed:
            return self.replace(mergers=()).dense(), ()
        return self.canvas, (*self.retired, (take(self.index, gone), self.rows_of(gone)))

    def _kept(self, slots: Tensor) -> dict[str, Tensor]:
        """Return what `replace` takes to keep `slots` (B,K) alone: prefix and tokens in one piece are copied once, together."""
        joined = self.joined
        if joined is None or recorded_by_jit():  # the older ONNX exporter loses the batch size in what follows
            return {"tokens": take(self.tokens, slots)}
        return {"joined": take(joined, behind(slots, self.prefix_count))}

    def note(self, name: str, block: int, payload: Any) -> "TokenState":
        """Append an auxiliary record (losses and analytics read them)."""
        return self.replace(aux=(*self.aux, (name, block, payload)))


_FIELDS = frozenset(field.name for field in fields_of(TokenState))
