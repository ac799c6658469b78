"""Compares SViT's four insights with measured rows: a table, a verdict for each claim, and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.registry import register
from tokenprune.report.insights.power import MOST
from tokenprune.runs.reports import Sweep

if TYPE_CHECKING:
    import pandas as pd

    from tokenprune.report.insights.claims import Comparison


@register("report", "insights")
@dataclass(frozen=True)
class InsightsReport:
    """Writes SViT's four claims as differences paired by seed, each with a verdict by a printed rule: insights.md, .csv, .png."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Print and write the result, or nothing if no pair of rows bears on a claim."""
        from tokenprune.report.insights.claims import compare
        from tokenprune.report.insights.plot import draw
        from tokenprune.report.tables.formats import publish

        comparisons = compare(sweep.rows)
        if not comparisons:
            return []
        findings = Findings.of(comparisons, _where(sweep.rows))
        wrote = publish(findings, sweep.folder, "insights", f"{sweep.name}: SViT's four insights", latex=False)
        draw(comparisons, sweep.folder / "insights.png", _where(sweep.rows))
        return [*wrote, "insights.png"]


@dataclass(frozen=True)
class Findings:
    """Holds the findings.

    Attributes:
        data: For the CSV, one line a difference.
        shown: The same as text.
        blocks: Paragraphs below it.
    """

    data: "pd.DataFrame"
    shown: "pd.DataFrame"
    blocks: tuple[str, ...]

    @classmethod
    def of(cls, comparisons: "Sequence[Comparison]", where: str) -> "Findings":
        """Return the findings of comparisons; `where` names scale and data of the rows."""
        import pandas as pd

        from tokenprune.report.insights.claims import verdict_of_claims
        from tokenprune.report.insights.verdicts import RULES

        words = verdict_of_claims(comparisons).items()
        verdicts = "\n".join(f"- {claim.name}: {claim.text}: {word} (rows that differ in {claim.differs})" for claim, word in words)
        missing = list(dict.fromkeys(line for comparison in comparisons for line in comparison.missing))
        blocks = [
            f"SViT's claims, {where}:\n{verdicts}",
            " ".join(RULES.values()),
            f"{len(comparisons)} differences are tested; of that many intervals of 95 %, one in twenty misses the truth by chance."
            " Paper: the difference of its printed means on COCO, one run each. Kept share: mean of both sides; a difference at unequal"
            " shares is also one of cost.",
            "Not measured:\n" + "\n".join(f"- {line}" for line in missing) if missing else "",
        ]
        lines = [_numbers(comparison) for comparison in comparisons]
        return cls(pd.DataFrame(lines), pd.DataFrame([_shown(c) for c in comparisons]), tuple(block for block in blocks if block))


def _numbers(comparison: "Comparison") -> dict[str, Any]:
    from tokenprune.report.insights.verdicts import interval

    gap = comparison.gap
    low, high = interval(gap) if gap is not None and gap.n > 1 else (None, None)
    power = comparison.power
    return {
        "claim": comparison.claim.name, "first": comparison.first, "second": comparison.second, "setting": comparison.setting,
        "keep_rate": comparison.keep_rate, "metric": comparison.metric,
        "difference": gap and gap.mean, "standard_error": gap and gap.error, "n": gap.n if gap else 0,
        "interval_low": low, "interval_high": high, "spread": comparison.spread, "paper_difference": comparison.paper,
        "kept_share_first": comparison.shares[0], "kept_share_second": comparison.shares[1], "rule": comparison.claim.rule,
        "power": power and power.power, "seeds_needed": power and power.seeds, "pictures_needed": power and power.pictures,
        "verdict": comparison.verdict, "missing": "; ".join(comparison.missing),
    }  # fmt: skip


def _shown(comparison: "Comparison") -> dict[str, str]:
    from tokenprune.report.insights.claims import METRICS

    line = {k: None if v != v else v for k, v in _numbers(comparison).items()}  # only NaN differs from itself
    error = "" if line["standard_error"] is None else f" ± {line['standard_error']:.2f}"
    bounds = [line["interval_low"], line["interval_high"]]
    return {
        "claim": line["claim"],
        "first minus second": f"{line['first']} − {line['second']}" + (f" ({line['setting']})" if line["setting"] else ""),
        "keep_rate": "—" if line["keep_rate"] is None else f"{line['keep_rate']:g}",
        "": METRICS[comparison.metric],
        "difference ± SE": "—" if line["difference"] is None else f"{line['difference']:+.2f}{error}",
        "seeds": str(line["n"]),
        "95 % interval": "—" if None in bounds else f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]",
        "spread": "—" if line["spread"] is None else f"{line['spread']:.2f}",
        "kept shares": " / ".join("—" if share != share else f"{share:.3f}" for share in comparison.shares),
        "paper": "—" if line["paper_difference"] is None else f"{line['paper_difference']:+.1f}",
        "power for it": "—" if line["power"] is None else f"{line['power']:.0%}",
        "seeds for it": "—" if line["seeds_needed"] is None else _at_least(line["seeds_needed"]),
        "pictures for it": "—" if line["pictures_needed"] is None else f"{line['pictures_needed']:.2g} x",
        "verdict": line["verdict"],
    }


def _at_least(seeds: int) -> str:
    return f"> {MOST}" if seeds >= MOST else str(seeds)


def _where(rows: Sequence[Any]) -> str:
    return f"scale={' and '.join(dict.fromkeys(r['scale'] for r in rows))}, data={' and '.join(dict.fromkeys(r['data'] for r in rows))}"
