"""One table of a model's tokens: what each block attends to, asks for and feeds, as planned or as used in one pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tokenprune.engine.policy import Site

if TYPE_CHECKING:
    from tokenprune.engine.execution import BlockUsage
    from tokenprune.engine.model import PrunedViT


class PlannedBlock(NamedTuple):
    """Holds the token counts of one block that the schedule plans.

    Attributes:
        before: Patch slots that enter the block, before its decision.
        attended: Keys of the attention, prefix included.
        rows: Queries of the attention, prefix included.
        fed: Tokens of the MLP, prefix included.
        site: Where the block decides, None where it does not.
    """

    before: float
    attended: float
    rows: float
    fed: float
    site: Site | None


def planned_blocks(model: "PrunedViT", positions: int) -> list[PlannedBlock]:
    """Return the counts of each block at N positions.

    They are exact for selectors of fixed counts, means for gates that aim at a target, and upper bounds for the others.
    """
    found, live, P = [], float(positions), model.prefix_tokens
    budgets = model.budgets(positions)
    for number in range(model.depth):
        if model.treatment.revive == "last" and number == model.depth - 1:
            live = float(positions)
        before, after, budget, site = live, live, budgets.get(number), None
        if budget is not None:
            selector = model.selector_at(number, positions)
            site = selector.site
            expected = float(budget.rate) * positions if selector.count_role == "target" and selector.counts_vary else float(budget.keep)
            after = live if selector.count_role == "blocks" else min(expected, positions) + model.treatment.extra
        attended = (after if site in (None, Site.BEFORE) else before) + P
        rows = (before if site is Site.INSIDE else after) + P
        found.append(PlannedBlock(before, attended, rows, after + P, site))
        live = after
    return found


def described(model: "PrunedViT", positions: int) -> str:
    """Return the planned counts as a table of all blocks."""
    blocks = planned_blocks(model, positions)
    notes = ["" if block.site is None else _note(block, model.prefix_tokens) for block in blocks]
    head = f"{positions} positions"
    return _table(head, model.prefix_tokens, [(b.attended, b.rows, b.fed) for b in blocks], notes)


def described_usage(usage: "Sequence[BlockUsage]", positions: int, prefix: int) -> str:
    """Return the counts of one pass as a table of all blocks, each a mean over the images."""
    rows = [tuple(float(counts.double().mean()) for counts in (used.attended, used.rows, used.fed)) for used in usage]
    return _table(f"{positions} positions, mean of {len(usage[0].fed)} image(s)", prefix, rows, [""] * len(rows))


def _note(block: PlannedBlock, prefix: int) -> str:
    place = {
        Site.BEFORE: "before the block",
        Site.AHEAD: "before its values",
        Site.ROWS: "before its queries",
        Site.INSIDE: "before its MLP",
    }[block.site or Site.BEFORE]
    return f"  {_number(block.fed - prefix)} of {_number(block.before)} patch tokens stay, decided {place}"


def _table(head: str, prefix: int, rows: Sequence[Sequence[float]], notes: Sequence[str]) -> str:
    lines = [f"{head}; counts include {prefix} prefix token(s)", "block  attended  queries      fed"]
    for number, ((attended, asked, fed), note) in enumerate(zip(rows, notes, strict=True)):
        lines.append(f"{number:5d}  {_number(attended):>8}  {_number(asked):>7}  {_number(fed):>7}{note}")
    return "\n".join(lines)


def _number(count: float) -> str:
    return f"{count:.0f}" if count == round(count) else f"{count:.1f}"
