"""Counts the multiply-accumulates of an encoder, from the tokens it used or from its schedule. Papers print these GMACs as GFLOPs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenprune.engine.decision import Branch
from tokenprune.engine.model import PrunedViT, pruned_of
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.plan import planned_blocks
from tokenprune.engine.policy import Site
from tokenprune.utils.modes import evaluating

_GIGA = 1e9


@dataclass(frozen=True)
class Macs:
    """Holds the MACs of one image, as a mean over a batch.

    `total` is the number that SViT, EViT and DynamicViT print: linear + attention + selector, without norms. Cropr prints `linear`; its
    segmentation rows add `norm`.

    Attributes:
        linear: MACs of layers with weights.
        attention: MACs of attention products.
        norm: Cost of norms, 5 an element.
        selector: MACs of the selectors, and of the similarities by which a treatment merges for them.
        embedding: The part of `linear` that the patch embedding takes. SViT's figures for detection encoders leave it out.
        kept_per_block: Mean share of the N positions in each block's attention.
    """

    linear: float
    attention: float
    norm: float
    selector: float
    embedding: float
    kept_per_block: tuple[float, ...]

    @property
    def total(self) -> float:
        """Return linear + attention + selector."""
        return self.linear + self.attention + self.selector

    @property
    def kept_share(self) -> float:
        """Return the mean over blocks of kept positions / N."""
        return sum(self.kept_per_block) / len(self.kept_per_block)


class _Counts(NamedTuple):
    """Holds the mean counts of one block; tokens include the prefix.

    If heads and sub-layers are switched off (`branch` notes), the tokens of an image count with the share of them that runs.

    Attributes:
        attended: Tokens that are keys of the attention.
        rows: Tokens that are queries of the attention.
        fed: Tokens that enter the MLP.
        products: Mean product of keys and queries; at site `ahead` of half the products before and half of those after the decision.
        scored: Slots that the selector scores, for each image.
        squared: Mean square of the slots that a decision finds.
        observed: Slots in the attention of the block before.
        entering: Tokens that enter attention, whatever runs there.
        normed: Attended tokens and rows for the norms, which do not get cheaper when heads are off.
    """

    attended: float
    rows: float
    fed: float
    products: float
    scored: tuple[float, ...]
    squared: float
    observed: float
    entering: float
    normed: tuple[float, float]


def encoder_macs(model: PrunedViT, outputs: Outputs, head: bool = False) -> Macs:
    """Return the mean MACs an image of one encoder pass: the patch embedding and the blocks.

    Counts are taken per image, so the quadratic term of uneven batches is the mean of squares, not the square of the mean. Heads and
    sub-layers that a selector switched off, by its notes named `branch`, are not counted, though they may have been computed (see
    `Selector`).

    Args:
        model: The encoder.
        outputs: The outputs of the pass.
        head: Whether the classification head counts, too.
    """
    counts, P, N = [], model.prefix_tokens, outputs.state.positions
    before, observed = torch.tensor([float(N)], dtype=torch.float64), float(N)
    branches = {block: branch for name, block, branch in outputs.aux if name == "branch"}
    for number, used in enumerate(outputs.usage):
        attended, rows, fed = (t.double().cpu() for t in (used.attended, used.rows, used.fed))
        heads, attends, feeds = _shares(branches.get(number))
        entering = float(attended.mean())
        each = zip((attended - P).tolist(), before.expand_as(attended).tolist(), strict=True)
        scored = tuple(_scored(model, number, now, then, N) for now, then in each)
        squared = float((before if _site(model, number) is Site.BEFORE else attended - P).square().mean())
        before = fed - P
        products = (attended**2 + rows**2) / 2 if _site(model, number) is Site.AHEAD else attended * rows
        working = (attended * heads, rows * heads, fed * feeds, products * heads)
        normed = (float((attended * attends).mean()), float((rows * attends).mean()))
        counts.append(_Counts(*(float(t.mean()) for t in working), scored, squared, observed, entering, normed))
        observed = entering - P
    return _sum(model, counts, outputs.state.positions, head)


def planned_macs(model: PrunedViT, positions: int, head: bool = False) -> Macs:
    """Return the MACs that the schedule plans at N positions, without running anything.

    They depend on the selector's `count_role`. For fixed budgets they are exact. For gates with a target they are the MACs at the expected
    usage, rate * N tokens (E[n]^2 in the quadratic term). For a sampler they are the upper bound that its number of samples sets. For a
    selector of count_role `blocks` they are the upper bound at which it drops nothing.

    Args:
        model: The encoder.
        positions: Number of positions N.
        head: Whether the classification head counts, too.
    """
    counts, observed, P = [], float(positions), model.prefix_tokens
    for number, (before, attended, rows, fed, site) in enumerate(planned_blocks(model, positions)):
        scored = (_scored(model, number, attended - P, before, positions),)
        products = (attended**2 + rows**2) / 2 if site is Site.AHEAD else attended * rows
        counts.append(_Counts(attended, rows, fed, products, scored, before**2, observed, attended, (attended, rows)))
        observed = attended - P
    return _sum(model, counts, positions, head)


def _site(model: PrunedViT, number: int) -> Site:
    return model.selectors[str(number)].site if str(number) in model.selectors else Site.BEFORE


def _scored(model: PrunedViT, number: int, entering: float, before: float, positions: int) -> float:
    """Return the number of slots that a block's selector scores: all, those left by the block before, or those in its block's attention."""
    selector = dict(model.selectors.items()).get(str(number))
    if model.treatment.may_revive and not (selector is not None and selector.reads_previous_block):
        return float(positions)
    return before if selector is None or selector.site is Site.BEFORE else entering


def _shares(branch: Branch | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of each image's heads, attention and MLP that run, (B,) each; ones for an ordinary block.

    Half of a narrowed MLP, its first layer, runs for the channels of the heads that are on.
    """
    if branch is None:
        return (torch.ones((), dtype=torch.float64),) * 3
    heads, sublayers = (gates.detach().double().cpu() for gates in branch[:2])
    share = heads.mean(1)
    return share * sublayers[:, 0], sublayers[:, 0], sublayers[:, 1] * ((1 + share) / 2 if branch.narrows else 1)


def _sum(model: PrunedViT, counts: Sequence[_Counts], positions: int, head: bool) -> Macs:
    P = model.prefix_tokens
    embedding = model.family.embed_macs(positions)
    linear = embedding + (model.family.head_macs() if head else 0.0)
    attention = selecting = 0.0
    deciding = model.budgets(positions)  # a schedule that changes in training does not use all of its selectors at all times
    norm = 5.0 * model.embed_dim * (positions + P)
    for number, (block, c) in enumerate(zip(model.family.blocks, counts, strict=True)):
        valued = c.rows if number in deciding and _site(model, number) is Site.AHEAD else None
        cost = block.macs(c.attended, c.rows, c.fed, c.products, valued)
        norm += block.macs(*c.normed, c.fed, 0.0, valued).norm
        linear, attention = linear + cost.linear, attention + cost.attention
        if number in deciding and str(number) in model.selectors:
            selector = model.selectors[str(number)]
            treating = model.treatment.at(number, model.depth).macs(selector.merging, c.squared, model.embed_dim)
            elsewhere = selector.observed_macs(c.observed) - fmean(map(selector.observed_macs, c.scored))
            selecting += fmean(map(selector.macs, c.scored)) + elsewhere + treating
            norm += 5.0 * selector.normed * fmean(c.scored)
    if model.fusion is not None:
        cost = model.fusion.macs(counts[-1].fed - P, positions, P)
        linear, attention, norm = linear + cost.linear, attention + cost.attention, norm + cost.norm
    kept = tuple((c.entering - P) / positions for c in counts)
    return Macs(linear, attention, norm, selecting, embedding, kept)


@torch.no_grad()
def encoder_cost(encoder: nn.Module, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Average the encoder's MACs and kept shares over images that pass through it one by one.

    Args:
        encoder: A PrunedViT or the EncoderMaps that it works in. An adapter changes what its selectors see; the adapter's own MACs do not
            count.
        batches: Normalised images (1,3,H,W), one at a time, because a method's token count may depend on its image.

    Returns:
        gmac_linear, gmac_attention, gmac_norm, gmac_selector and gmac_total; kept_share and kept_per_block, which are shares in [0,1] of
            the
        positions that enter attention.
    """
    pruned, rows = pruned_of(encoder), []
    with evaluating(encoder):
        for images in batches:
            macs = encoder_macs(pruned, encoder.encode(images))
            rows.append([macs.linear, macs.attention, macs.norm, macs.selector, macs.total, *macs.kept_per_block])
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    names = ("linear", "attention", "norm", "selector", "total")
    kept = mean[len(names) :]
    cost = {f"gmac_{name}": value / _GIGA for name, value in zip(names, mean, strict=False)}
    return {**cost, "kept_share": sum(kept) / len(kept), "kept_per_block": [round(share, 4) for share in kept]}
