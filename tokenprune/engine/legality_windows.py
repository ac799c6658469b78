"""What models whose blocks attend inside windows cannot be paired with, and which counts they can have; see `blocks.windowed`."""

from collections.abc import Mapping
from typing import Any

from tokenprune.engine.blocks.windows import Windows, no_square
from tokenprune.engine.legality import resolve
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Layout, Schedule
from tokenprune.engine.selector import Selector
from tokenprune.engine.treatment import Treatment
from tokenprune.errors import IncompatiblePairing, InvalidSchedule


def refuse_windowed(
    windows: Windows | None, selector: type[Selector] | None, treatment: Treatment, options: Mapping[str, Any], execution: str
) -> None:
    """Raise IncompatiblePairing for what a model with windows cannot be run with; `options` are the selector's own."""
    if windows is None:
        return
    if execution not in ("auto", "gathered"):
        raise IncompatiblePairing(f"execution is {execution!r}, and windows are cut of live tokens alone; allowed there: auto, gathered")
    if selector is None:
        return
    bad = [
        (selector.budget == "dynamic" or selector.gated, "it keeps another number of tokens in each image, in training or always"),
        (selector.site is not Site.BEFORE, "it decides inside a block, when its windows are cut already"),
        (selector.merging or selector.mixing, "merged and mixed tokens have no cell in a square"),
        (selector.wants_cls(options), "it reads a class token, which stands in no window; attn_topk can read score=column_mean"),
    ]
    reasons = [text for wrong, text in bad if wrong]
    if reasons:
        allowed = "cropr, random, variance, attn_topk with score=column_mean"
        raise IncompatiblePairing(f"selector {selector.name!r} x windows: {'; '.join(reasons)}. Use one of {allowed}")
    if treatment.fold != "none":
        raise IncompatiblePairing(
            f"treatment {treatment.name!r} x windows: what dropped tokens are folded into has no cell in a square; use last_layer_fusion,"
            " preserve, reactivate or remove"
        )


def refuse_counts(windows: Windows | None, selector: type[Selector], treatment: Treatment, schedule: Schedule, layout: Layout) -> None:
    """Raise InvalidSchedule where a block attends inside windows and the tokens that enter it are no square of whole windows.

    Looked at are the first and the last schedule of training; one that changes between is met by the same error in its course.
    """
    if windows is None:
        return
    for progress in (0.0, 1.0):
        live = layout.positions
        decided = {b.block: b.keep for b in resolve(selector, treatment, schedule.at(progress), layout)}
        for block in range(layout.depth):
            live = layout.positions if treatment.revive == "last" and block == layout.depth - 1 else decided.get(block, live)
            if block not in windows.global_blocks and not windows.fits(live):
                raise InvalidSchedule(f"block {block}: {no_square(live, windows.size)}")
