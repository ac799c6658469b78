"""Makes docs/claims.md: what both papers claim, beside what was measured here, from experiments/claims.yaml and experiments/*/measured."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenprune.cli.docs.links import cell
from tokenprune.report.claims.declared import claims_of
from tokenprune.report.claims.judged import (
    AGREES,
    BOTH_WAYS,
    DISAGREES,
    IN_PART,
    UNMEASURED,
    VERDICTS,
    Comparison,
    Judged,
    judge_claims,
)
from tokenprune.report.insights.power import MOST
from tokenprune.report.insights.verdicts import FAILS, HOLDS, MIXED, RULES, UNDECIDABLE, UNDECIDED, interval
from tokenprune.report.tables.scores import TITLES

_HEAD = """# Claims of the papers

{summary}

Made by `make docs` from [experiments/claims.yaml](../experiments/claims.yaml), which says what is compared for each claim, from the rows
and figures in [experiments/](../experiments/)`*/measured`, and from the papers' numbers beside them. Measure again there, and make it
again. The papers' numbers are of COCO, ImageNet and ADE20k with large models, and one run each where they say nothing else; ours are of
small models on small data. So a verdict says what shows here, not that a paper is wrong.

{counts}

{better} {as_good} {undecidable} *Seeds for it* is the least number from which that power is 80 %.

Of {comparisons} differences below, {several} were measured with several seeds; of that many intervals of 95 %, one in twenty misses the
truth by chance.

With one seed nothing is decided: the verdict is whether the sign agrees, for `as good` whether no more is lost than in the paper. *Holds
in part*: some differences of the claim hold, and none fails; *mixed*: some hold and others do not. Where a claim has differences of several
seeds, those of one seed do not count. Scores are in points, speed-ups are ratios to the dense model, shares lie between 0 and 1."""
_TITLES = {**TITLES, "speedup_batch": "speed-up in batches", "speedup_encoder": "encoder speed-up",
           "speedup_paper_size": "speed-up at the paper's size"}  # fmt: skip


def page(root: Path) -> str:
    """Return the page for a checkout at `root`.

    Raises:
        InvalidConfig: experiments/claims.yaml is wrong.
        DatasetError: A claim names rows that cannot be told apart.
    """
    file = root / "experiments" / "claims.yaml"
    judged = judge_claims(claims_of(file), file.parent) if file.is_file() else []
    papers: dict[str, list[Judged]] = {}
    for one in judged:
        papers.setdefault(one.claim.paper, []).append(one)
    compared = [c for one in judged for c in one.comparisons if c.gap is not None]
    head = _HEAD.format(
        summary=_summary(judged), counts=_counts(papers), better=RULES["better"], as_good=RULES["as good"],
        undecidable=RULES["undecidable"], comparisons=len(compared), several=sum(c.gap.n > 1 for c in compared if c.gap),
    )  # fmt: skip
    sections = [_paper(paper, claims, root / "docs") for paper, claims in papers.items()]
    return "\n\n".join([head, *sections]) + "\n"


def _summary(judged: Sequence[Judged]) -> str:
    """Return three sentences on all claims."""
    n = Counter(one.verdict for one in judged)
    decided = f"{n[HOLDS]} hold, {n[IN_PART]} hold in part, {n[MIXED]} are mixed and {n[FAILS]} do not hold"
    seeds = sum(n[verdict] for verdict in (AGREES, BOTH_WAYS, DISAGREES))
    return (
        f"Of {len(judged)} claims of both papers, {decided} on this project's small models and data, with several seeds."
        f" Undecided are {n[UNDECIDED]} more, and undecidable {n[UNDECIDABLE]}, because so many seeds could hardly have shown an effect as"
        f" small as the paper's. For {seeds} there is one seed, whose sign agrees with the paper for {n[AGREES]}, disagrees for"
        f" {n[DISAGREES]} and differs between rows for {n[BOTH_WAYS]}; {n[UNMEASURED]} are not measured."
    )


def _counts(papers: Mapping[str, Sequence[Judged]]) -> str:
    """Return a table of the numbers of claims by verdict and paper."""
    counts = {paper: Counter(one.verdict for one in judged) for paper, judged in papers.items()}
    lines = [f"| verdict | {' | '.join(counts)} |", f"|---|{'---|' * len(counts)}"]
    lines += [f"| {verdict} | {' | '.join(str(c[verdict]) for c in counts.values())} |" for verdict in VERDICTS]
    return "\n".join(lines)


def _paper(paper: str, judged: Sequence[Judged], docs: Path) -> str:
    numbered = [(f"{paper} {number}", one) for number, one in enumerate(judged, 1)]
    lines = ["| | claim | printed in | verdict | differences |", "|---|---|---|---|---|"]
    for name, one in numbered:
        cells = [f"[{name}](#{name.lower().replace(' ', '-')})", one.claim.text, one.claim.where, f"**{one.verdict}**", one.counted]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n\n".join([f"## {paper}", "\n".join(lines), *(_section(name, one, docs) for name, one in numbered)])


def _section(name: str, judged: Judged, docs: Path) -> str:
    claim = judged.claim
    head = f"**{claim.text}** {claim.where}; rule `{claim.rule}`; {judged.verdict}." + (f" {claim.note}" if claim.note else "")
    titles = ["first − second", "of", "measured on", "ours", "seeds", "95 % interval", "paper", "power for it", "seeds for it", "verdict"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(map(cell, _cells(c, docs)))} |" for c in judged.comparisons]
    return "\n\n".join([f"### {name}", head, "\n".join(lines)])


def _cells(c: Comparison, docs: Path) -> list[str]:
    gap, power = c.gap, c.power
    measured = "—" if c.lines is None else f"[{c.lines.named}]({os.path.relpath(c.lines.path, docs)})"
    low, high = interval(gap) if gap is not None and gap.n > 1 else (math.nan, math.nan)
    return [
        f"{c.pair.first.words} − {c.pair.second.words}",
        _TITLES.get(c.column, c.column.replace("_", " ")),
        measured,
        "—" if gap is None else f"{gap.mean:+.2f}",
        "—" if gap is None else str(gap.n),
        "—" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}",
        "—" if math.isnan(c.paper) else f"{c.paper:+.2f}",
        "—" if power is None else f"{power.power:.0%}",
        "—" if power is None or power.seeds is None else (f"> {MOST}" if power.seeds >= MOST else str(power.seeds)),
        c.verdict,
    ]
