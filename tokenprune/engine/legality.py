"""Which selector, treatment, schedule and execution can work together, from declared facts alone, before a weight is loaded."""

from collections.abc import Mapping
from typing import Any

from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.engine.selector import Selector
from tokenprune.engine.treatment import Treatment
from tokenprune.errors import IncompatiblePairing, TokenPruneError, reason_of
from tokenprune.registry import build, get

EXECUTIONS = ("auto", "masked", "gathered", "packed")
Spec = str | Mapping[str, Any]


def check_pairing(
    selector: Spec | None,
    treatment: Spec,
    schedule: Spec,
    *,
    depth: int,
    positions: int,
    prefix: int = 1,
    execution: str = "auto",
) -> tuple[Budget, ...]:
    """Check one pairing and return its resolved budgets (empty for a dense model).

    Args:
        selector, treatment, schedule: a name, or a mapping with `name` and options; selector None is the dense model.
        depth: number of blocks. positions: N grid positions. prefix: P prefix tokens.
        execution: auto, masked, gathered or packed.

    Raises:
        UnknownPlugin, InvalidConfig, InvalidSchedule, IncompatiblePairing: with what, got, allowed and how to fix.
    """
    if execution not in EXECUTIONS:
        raise IncompatiblePairing(f"execution is {execution!r}; allowed: {', '.join(EXECUTIONS)}")
    if selector is None:
        return ()
    chosen = get("selector", selector if isinstance(selector, str) else selector["name"])
    after = build("treatment", treatment)
    refuse(chosen, after, execution)
    return resolve(chosen, after, build("schedule", schedule), Layout(depth, positions, prefix))


def refuse(selector: type[Selector], treatment: Treatment, execution: str = "auto") -> None:
    """Raise IncompatiblePairing if a selector cannot work under a treatment or an execution."""
    pair = f"selector {selector.name!r} x treatment {treatment.name!r}"
    if treatment.may_revive and selector.site is not Site.BEFORE:
        raise IncompatiblePairing(
            f"{pair}: it scores tokens by the attention of the block itself, so letting dropped tokens come back would need every token in"
            " that attention and save nothing (SViT section 4.1); use preserve, or a selector of site `before`"
        )
    if treatment.may_revive and (selector.merging or selector.absorbing):
        raise IncompatiblePairing(f"{pair}: a merged or halted token has no identity to come back with; use merge, remove or preserve")
    if treatment.may_revive and treatment.fold != "none":
        raise IncompatiblePairing(f"{pair}: a token cannot both be folded into others and come back; choose fold or candidates `all`")
    if selector.mixing and (treatment.remembers or treatment.fold != "none"):
        raise IncompatiblePairing(f"{pair}: its new tokens are mixtures of all, so that none is left to remember or to fold; use remove")
    if treatment.fold == "fuse" and selector.merging:
        raise IncompatiblePairing(f"{pair}: it names a target for each token, not a weight to fuse by; use merge")
    if treatment.learns and (selector.budget == "dynamic" or selector.gated or selector.merging or selector.mixing):
        raise IncompatiblePairing(
            f"{pair}: a learned fusion reads tokens that stayed as they were, as many in each image; it takes selectors of a fixed number"
            " without gates, merging or mixing (cropr, evit, topk, random, ...); use one of them, or preserve, remove or last_layer_fusion"
        )
    if execution == "gathered" and selector.budget == "dynamic":
        raise IncompatiblePairing(
            f"{pair}: it keeps a different number of tokens in each image; execution `gathered` needs equal numbers: use packed or auto"
        )


def resolve(selector: type[Selector], treatment: Treatment, schedule: Schedule, layout: Layout) -> tuple[Budget, ...]:
    """Return the schedule's budgets under the facts of selector and treatment.

    Raises:
        InvalidSchedule: The schedule refuses.
        TokenPruneError: The schedule has an error in its code.
    """
    try:
        return schedule.budgets(layout_for(selector, treatment, layout))
    except TokenPruneError:
        raise
    except Exception as error:
        name = getattr(schedule, "name", type(schedule).__name__)
        at = f"{layout.depth} blocks and {layout.positions} positions"
        raise TokenPruneError(f"schedule {name!r} failed for {at}: {reason_of(error)}; mend its `rates` or `budgets`") from error


def layout_for(selector: type[Selector], treatment: Treatment, layout: Layout) -> Layout:
    """Return the layout with the facts of selector and treatment filled in."""
    return Layout(
        depth=layout.depth,
        positions=layout.positions,
        prefix=layout.prefix,
        extra=treatment.extra,
        revive=treatment.revive == "last",
        all_candidates=treatment.may_revive,
        cap=selector.cap,
    )
