"""Times the encoder of a row at the size of a paper: random weights of a larger ViT, which keep the shares that the row keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

import torch

from tokenprune.engine.counted import Counted
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.policy import Site
from tokenprune.engine.prune import prune
from tokenprune.errors import TokenPruneError
from tokenprune.measure.speed import seconds_in_turn, untimed
from tokenprune.measure.usage import kept_shares
from tokenprune.tasks.encoder import build_pruned

_FIELDS = ("speedup_paper_size", "seconds_paper_size", "kept_share_paper_size")


@dataclass(frozen=True)
class PaperSize:
    """Sets the encoder and the image that a row is timed at. The defaults are SViT's: DeiT-T at 1333 x 800, 4200 tokens.

    Args:
        short_side: Short side of the image in pixels; sides are padded to whole patches.
        long_side: Long side of the image in pixels.
        patch_size: Side of a patch in pixels.
        embed_dim: Width of a token.
        num_heads: Heads of the attention.
        rounds: Rounds of dense and pruned in turn; the median of their ratios counts.
    """

    short_side: int = 800
    long_side: int = 1333
    patch_size: int = 16
    embed_dim: int = 192
    num_heads: int = 3
    rounds: int = 2


@torch.inference_mode()
def speed_at_size(
    cfg: Mapping[str, Any], pruned: PrunedViT, positions: int, kept: Sequence[float], size: PaperSize, device: torch.device
) -> dict[str, Any]:
    """Time an encoder of a paper's size that keeps, block by block, the shares that a row's own encoder keeps; batch 1.

    The row's selector and treatment are built anew for it with random weights; their time counts. What they keep is set: a schedule of the
    row's measured shares, and for selectors whose numbers depend on the image the best-scored tokens of that number.

    Args:
        cfg: The run.
        pruned: The row's encoder, in eval mode.
        positions: N of the row's images.
        kept: Mean share of the positions that enter each block's attention in the row.
        size: The larger encoder and its image.
        device: The device that runs it.

    Returns:
        speedup_paper_size over the dense encoder, seconds_paper_size, kept_share_paper_size as it was in the timed passes, and
        paper_size_note; all but the note are None for an encoder that is not timed.
    """
    reason = untimed(pruned)
    try:
        large = None if reason else _large(cfg, pruned, positions, kept, size).to(device).eval()
    except TokenPruneError as error:
        large, reason = None, f"not timed: {error}"
    if large is None:
        return {**dict.fromkeys(_FIELDS), "paper_size_note": reason}
    height, width = (-(-side // size.patch_size) * size.patch_size for side in (size.short_side, size.long_side))
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    calls = {"dense": partial(prune(large.backbone).encode, image), "pruned": partial(large.encode, image)}
    calls["dense"]()  # warm-up, as is the next line
    used, places = large.encode(image).usage, (height // size.patch_size) * (width // size.patch_size)
    seconds = seconds_in_turn(calls, size.rounds, device, warmup=0)
    ratios = [dense / own for dense, own in zip(seconds["dense"], seconds["pruned"], strict=True)]
    share = fmean(kept_shares(used, large.prefix_tokens, places))
    said = f"random weights of width {size.embed_dim}, {width} x {height} px, {places} tokens, the shares that the row keeps in each block"
    found = (median(ratios), median(seconds["pruned"]), share)
    return {**dict(zip(_FIELDS, found, strict=True)), "paper_size_note": f"{said}; {size.rounds} rounds, dense and pruned in turn"}


def shares_of(pruned: PrunedViT, positions: int, kept: Sequence[float]) -> dict[int, float]:
    """Return {block: share of the positions that stay there} of a model's decisions.

    Args:
        pruned: The model.
        positions: N.
        kept: Mean share of the positions that enter each block's attention.
    """
    found = {}
    for number, budget in pruned.budgets(positions).items():
        before = pruned.selector_at(number, positions).site is Site.BEFORE
        place = number if before else number + 1  # a decision inside a block shows in the attention of the next one
        share = kept[place] if place < len(kept) else budget.keep / positions
        found[number] = min(max(float(share), 1 / positions), 1.0)
    return found


def _large(cfg: Mapping[str, Any], pruned: PrunedViT, positions: int, kept: Sequence[float], size: PaperSize) -> PrunedViT:
    """Return the larger encoder with the row's selector and treatment, which keeps the row's shares."""
    backbone = {"patch_size": size.patch_size, "embed_dim": size.embed_dim, "num_heads": size.num_heads, "depth": pruned.depth}
    data = {"short_side": size.short_side, "long_side": size.long_side}
    run = {**cfg, "backbone": backbone, "data": data, "task": {}, "losses": {}, "execution": "auto"}
    if pruned.selectors:
        keep = {block: round(share, 6) for block, share in shares_of(pruned, positions, kept).items()}
        run["schedule"] = {"name": "explicit", "keep": keep, "rounding": "round"}
    torch.manual_seed(0)
    large = build_pruned(run).eval()
    for number, selector in large.selectors.items():
        if selector.counts_vary:
            large.selectors[number] = Counted(selector)
    return large
