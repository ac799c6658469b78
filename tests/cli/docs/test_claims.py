"""The page of all claims."""

from pathlib import Path

from tests.helpers.claims import declare, expected, measured, rows
from tokenprune.cli.docs import claims
from tokenprune.report.claims.declared import claims_of

ROOT = Path(__file__).parents[3]


def made(root):
    folder = root / "experiments"
    declare(folder, "[{first: {method: A}, second: {method: B}}, {first: {method: A}, second: {method: C}}]")
    measured(folder, [*rows("A", [60, 61, 65]), *rows("B", [59, 58, 60])])
    expected(folder, [{"method": "A", "top1": 82.0}, {"method": "B", "top1": 80.0}])
    return claims.page(root)


def test_a_claim_its_numbers_and_its_place_in_the_overview(tmp_path):
    lines = made(tmp_path).splitlines()
    link = "[shapes, demo](../experiments/mine/measured/table.csv)"
    assert f"| A − B | top-1 | {link} | +3.00 | 3 | -1.97 to +7.97 | +2.00 | 18% | 10 | undecidable here |" in lines
    assert "| A − C | top-1 | — | — | — | — | — | — | — | not measured |" in lines
    verdict = "**undecidable here** | 1 undecidable here, 1 not measured"
    assert f"| [Paper 1](#paper-1) | A is best. | Table 9 | {verdict} |" in lines
    assert "### Paper 1" in lines and "**A is best.** Table 9; rule `better`; undecidable here." in lines


def test_the_page_begins_with_three_sentences_and_the_count_of_verdicts(tmp_path):
    title, _, summary, *rest = made(tmp_path).splitlines()
    assert title == "# Claims of the papers" and summary.count(". ") == 2 and summary.startswith("Of 1 claims of both papers, 0 hold,")
    assert "Undecided are 0 more, and undecidable 1," in summary
    assert "| verdict | Paper |" in rest and "| undecidable here | 1 |" in rest and "| holds | 0 |" in rest


def test_without_a_file_of_claims_there_are_none(tmp_path):
    assert "Of 0 claims" in claims.page(tmp_path)


def test_the_projects_claims_are_of_both_papers_and_of_experiments_that_exist():
    found = claims_of(ROOT / "experiments" / "claims.yaml")
    assert {claim.paper for claim in found} == {"SViT", "Cropr"} and len(found) > 40
    folders = {measure.experiment for claim in found for measure in claim.measures}
    assert folders <= {path.name for path in (ROOT / "experiments").iterdir()}
    assert {path.parent.name for path in (ROOT / "experiments").glob("*/expected.csv")} & folders
