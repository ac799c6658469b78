"""Multiply-accumulates of an encoder, from the tokens it really used, or from its schedule. Papers print these GMACs as GFLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenprune.engine import PrunedViT
from tokenprune.outputs import Outputs


@dataclass(frozen=True)
class Macs:
    """MACs of one image (mean of a batch): weight layers, attention products, norms (5 an element), selectors.

    `total` is what SViT, EViT and DynamicViT print: linear + attention + selector, without norms. Cropr prints `linear`
    (segmentation rows add `norm`). `embedding` is the part of `linear` that the patch embedding takes; SViT's figures for
    detection encoders leave it out. kept_per_block: mean share of the N positions in each block's attention.
    """

    linear: float
    attention: float
    norm: float
    selector: float
    embedding: float
    kept_per_block: tuple[float, ...]

    @property
    def total(self) -> float:
        """Linear + attention + selector."""
        return self.linear + self.attention + self.selector

    @property
    def kept_share(self) -> float:
        """Mean over blocks of kept positions / N."""
        return sum(self.kept_per_block) / len(self.kept_per_block)


class _Counts(NamedTuple):
    """Mean tokens of one block, prefix included, the mean product of keys and queries, and the slots its selector looked at."""

    attended: float
    rows: float
    fed: float
    products: float
    scored: float


def encoder_macs(model: PrunedViT, outputs: Outputs, head: bool = False) -> Macs:
    """Return the mean MACs an image of one encoder pass: patch embedding and blocks, with the classification head if asked.

    Counts are per image, so the quadratic term of uneven batches is the mean of squares, not the square of the mean.
    """
    counts, before = [], float(outputs.state.positions)
    for number, used in enumerate(outputs.usage):
        attended, rows, fed = (t.double().cpu() for t in (used.attended, used.rows, used.fed))
        entering = float(attended.mean()) - model.prefix_tokens
        scored = _scored(model, number, entering, before, outputs.state.positions)
        counts.append(_Counts(float(attended.mean()), float(rows.mean()), float(fed.mean()), float((attended * rows).mean()), scored))
        before = float(fed.mean()) - model.prefix_tokens
    return _sum(model, counts, outputs.state.positions, head)


def planned_macs(model: PrunedViT, positions: int, head: bool = False) -> Macs:
    """Return the MACs that the schedule stands for at N positions, without running anything.

    Exact for fixed budgets. For gates it is the MACs at the expected usage, rate * N tokens (E[n]^2 in the quadratic term); for a
    sampler, which has no target, the upper bound that its number of samples sets.
    """
    counts, live, P = [], float(positions), model.prefix_tokens
    budgets = model.budgets(positions)
    for number in range(model.depth):
        if model.treatment.revive == "last" and number == model.depth - 1:
            live = float(positions)
        before, after, budget = live, live, budgets.get(number)
        if budget is not None:
            gate = model.selectors[str(number)]
            expected = float(budget.rate) * positions if gate.gated and gate.counts_vary else float(budget.keep)
            after = min(expected, positions) + model.treatment.extra
        site = model.selectors[str(number)].site if budget is not None else "before"
        attended = (after if site == "before" else before) + P
        rows = (before if site == "inside" else after) + P
        scored = _scored(model, number, attended - P, before, positions)
        counts.append(_Counts(attended, rows, after + P, attended * rows, scored))
        live = after
    return _sum(model, counts, positions, head)


def _scored(model: PrunedViT, number: int, entering: float, before: float, positions: int) -> float:
    """Slots that a block's selector scores: all, those that left the block before, or those in this block's attention."""
    if model.treatment.reconsiders:
        return float(positions)
    site = model.selectors[str(number)].site if str(number) in model.selectors else "before"
    return before if site == "before" else entering


def _sum(model: PrunedViT, counts: Sequence[_Counts], positions: int, head: bool) -> Macs:
    P = model.prefix_tokens
    embedding = model.family.embed_macs(positions)
    linear = embedding + (model.family.head_macs() if head else 0.0)
    attention = selecting = 0.0
    deciding = model.budgets(positions)  # a schedule that changes in training has selectors that it does not always ask
    norm = 5.0 * model.embed_dim * (positions + P)
    for number, (block, c) in enumerate(zip(model.family.blocks, counts, strict=True)):
        cost = block.macs(c.attended, c.rows, c.fed, c.products)
        linear, attention, norm = linear + cost.linear, attention + cost.attention, norm + cost.norm
        if number in deciding and str(number) in model.selectors:
            selecting += model.selectors[str(number)].macs(c.scored)
    kept = tuple((c.attended - P) / positions for c in counts)
    return Macs(linear, attention, norm, selecting, embedding, kept)
