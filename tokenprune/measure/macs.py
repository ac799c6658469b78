"""Multiply-accumulates of an encoder, from the tokens it really used, or from its schedule. Papers print these GMACs as GFLOPs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenprune.engine.model import PrunedViT, pruned_of
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.policy import Site

_GIGA = 1e9


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
    """Mean tokens of one block, prefix included, the mean product of keys and queries, and the slots its selector looked at.

    Where heads and sub-layers are switched off (`branch` notes), an image's tokens count with the share of them that runs.
    """

    attended: float
    rows: float
    fed: float
    products: float
    scored: float
    entering: float  # of attention, whatever runs there
    normed: tuple[float, float]  # attended and rows, of norms: heads that are off make them no cheaper


def encoder_macs(model: PrunedViT, outputs: Outputs, head: bool = False) -> Macs:
    """Return the mean MACs an image of one encoder pass: patch embedding and blocks, with the classification head if asked.

    Counts are per image, so the quadratic term of uneven batches is the mean of squares, not the square of the mean. Heads and sub-layers
    that a selector switched off, by its notes of the name `branch`, are not counted, though they may have been computed (see `Selector`).
    """
    counts, before = [], float(outputs.state.positions)
    branches = {block: branch for name, block, branch in outputs.aux if name == "branch"}
    for number, used in enumerate(outputs.usage):
        attended, rows, fed = (t.double().cpu() for t in (used.attended, used.rows, used.fed))
        heads, attends, feeds = _shares(branches.get(number))
        entering = float(attended.mean())
        scored = _scored(model, number, entering - model.prefix_tokens, before, outputs.state.positions)
        before = float(fed.mean()) - model.prefix_tokens
        working = (attended * heads, rows * heads, fed * feeds, attended * rows * heads)
        normed = (float((attended * attends).mean()), float((rows * attends).mean()))
        counts.append(_Counts(*(float(t.mean()) for t in working), scored, entering, normed))
    return _sum(model, counts, outputs.state.positions, head)


def planned_macs(model: PrunedViT, positions: int, head: bool = False) -> Macs:
    """Return the MACs that the schedule stands for at N positions, without running anything.

    What that is depends on the selector's `count_role`. Exact for fixed budgets. For gates with a target it is the
    MACs at the expected usage, rate * N tokens (E[n]^2 in the quadratic term); for a sampler the upper bound that its number of samples
    sets; for a selector of count_role `blocks` the upper bound where it drops nothing.
    """
    counts, live, P = [], float(positions), model.prefix_tokens
    budgets = model.budgets(positions)
    for number in range(model.depth):
        if model.treatment.revive == "last" and number == model.depth - 1:
            live = float(positions)
        before, after, budget = live, live, budgets.get(number)
        if budget is not None:
            gate = model.selectors[str(number)]
            expected = float(budget.rate) * positions if gate.count_role == "target" and gate.counts_vary else float(budget.keep)
            after = live if gate.count_role == "blocks" else min(expected, positions) + model.treatment.extra
        site = model.selectors[str(number)].site if budget is not None else Site.BEFORE
        attended = (after if site is Site.BEFORE else before) + P
        rows = (before if site is Site.INSIDE else after) + P
        scored = _scored(model, number, attended - P, before, positions)
        counts.append(_Counts(attended, rows, after + P, attended * rows, scored, attended, (attended, rows)))
        live = after
    return _sum(model, counts, positions, head)


def _scored(model: PrunedViT, number: int, entering: float, before: float, positions: int) -> float:
    """Slots that a block's selector scores: all, those that left the block before, or those in this block's attention."""
    selector = dict(model.selectors.items()).get(str(number))
    if model.treatment.may_revive and not (selector is not None and selector.reads_previous_block):
        return float(positions)
    return before if selector is None or selector.site is Site.BEFORE else entering


def _shares(branch: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Share of each image's heads that run, whether its attention does, and its MLP, (B,) each; ones for an ordinary block."""
    if branch is None:
        return (torch.ones((), dtype=torch.float64),) * 3
    heads, sublayers = (gates.detach().double().cpu() for gates in branch)
    return heads.mean(1) * sublayers[:, 0], sublayers[:, 0], sublayers[:, 1]


def _sum(model: PrunedViT, counts: Sequence[_Counts], positions: int, head: bool) -> Macs:
    P = model.prefix_tokens
    embedding = model.family.embed_macs(positions)
    linear = embedding + (model.family.head_macs() if head else 0.0)
    attention = selecting = 0.0
    deciding = model.budgets(positions)  # a schedule that changes in training has selectors that it does not always ask
    norm = 5.0 * model.embed_dim * (positions + P)
    for number, (block, c) in enumerate(zip(model.family.blocks, counts, strict=True)):
        cost = block.macs(c.attended, c.rows, c.fed, c.products)
        norm += block.macs(*c.normed, c.fed, 0.0).norm
        linear, attention = linear + cost.linear, attention + cost.attention
        if number in deciding and str(number) in model.selectors:
            selector = model.selectors[str(number)]
            selecting, norm = selecting + selector.macs(c.scored), norm + 5.0 * selector.normed * c.scored
    if model.fusion is not None:
        cost = model.fusion.macs(counts[-1].fed - P, positions, P)
        linear, attention, norm = linear + cost.linear, attention + cost.attention, norm + cost.norm
    kept = tuple((c.entering - P) / positions for c in counts)
    return Macs(linear, attention, norm, selecting, embedding, kept)


@torch.no_grad()
def encoder_cost(encoder: nn.Module, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Average the encoder's MACs and kept shares over images that pass through it one by one.

    Args:
        encoder: a PrunedViT or the EncoderMaps that it works in: an adapter changes what its selectors see, its own MACs do not count.
        batches: normalised images (1,3,H,W); one at a time, because a method's token count may depend on its image.

    Returns:
        gmac_linear, gmac_attention, gmac_norm, gmac_selector, gmac_total; kept_share and kept_per_block, shares in [0,1] of the
        positions that enter attention.
    """
    training, pruned, rows = encoder.training, pruned_of(encoder), []
    encoder.eval()
    for images in batches:
        macs = encoder_macs(pruned, encoder.encode(images))
        rows.append([macs.linear, macs.attention, macs.norm, macs.selector, macs.total, *macs.kept_per_block])
    encoder.train(training)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    names = ("linear", "attention", "norm", "selector", "total")
    kept = mean[len(names) :]
    cost = {f"gmac_{name}": value / _GIGA for name, value in zip(names, mean, strict=False)}
    return {**cost, "kept_share": sum(kept) / len(kept), "kept_per_block": [round(share, 4) for share in kept]}
