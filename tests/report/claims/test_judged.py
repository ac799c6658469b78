"""Verdicts on claims: with several seeds, with one, with none."""

import math

import pytest

from tests.helpers.claims import declare, expected, measured, rows
from tokenprune.report.claims.declared import claims_of
from tokenprune.report.claims.judged import judge_claims
from tokenprune.report.insights.power import chance

A_OVER_B = "[{first: {method: A}, second: {method: B}}]"


def judged(folder, pairs=A_OVER_B, **more):
    (one,) = judge_claims(claims_of(declare(folder, pairs, **more)), folder)
    return one


def verdict_of(folder, first, second, rule="better", paper=(), **more):
    measured(folder, [*rows("A", first), *rows("B", second)])
    if paper:
        expected(folder, [{"method": name, "top1": value} for name, value in zip("AB", paper, strict=True)])
    return judged(folder, rule=rule, **more).verdict


@pytest.mark.parametrize(
    ("first", "second", "rule", "paper", "verdict"),
    [
        ([60, 61, 62], [50, 51, 52.1], "better", (), "holds"),
        ([50, 51, 52.1], [60, 61, 62], "better", (), "does not hold"),
        ([60, 51, 62], [55, 60, 58], "better", (), "undecided"),
        ([60, 51, 62], [55, 60, 58], "better", (58.1, 58.0), "undecidable here"),
        ([60, 61, 63], [60.5, 61, 63], "as good", (58.0, 58.1), "holds"),
        ([50, 51, 52.1], [60, 61, 62], "as good", (), "does not hold"),
        ([61], [60], "better", (), "one seed: sign agrees"),
        ([60], [61], "better", (), "one seed: sign disagrees"),
        ([60], [60], "better", (), "one seed: sign disagrees"),
        ([60], [60], "as good", (), "one seed: sign agrees"),
        ([60], [60.2], "as good", (80.0, 80.5), "one seed: sign agrees"),
        ([60], [60.6], "as good", (80.0, 80.5), "one seed: sign disagrees"),
        ([60], [61], "as good", (81.0, 80.0), "one seed: sign disagrees"),
    ],
)
def test_verdicts(tmp_path, first, second, rule, paper, verdict):
    assert verdict_of(tmp_path, first, second, rule, paper) == verdict


def test_the_numbers_of_a_comparison(tmp_path):
    measured(tmp_path, [*rows("A", [60, 61, 65]), *rows("B", [59, 58, 60])])
    expected(tmp_path, [{"method": "A", "top1": 82.0}, {"method": "B", "top1": 80.0}])
    (c,) = judged(tmp_path).comparisons
    assert (c.gap.mean, c.gap.n, c.level, c.paper) == (3.0, 3, 62.0, 2.0)
    assert c.spread == pytest.approx(math.sqrt((7 + 1) / 2))  # variances 7 and 1
    assert c.power.power == chance(2.0, 2.0, 3)  # the differences 1, 3, 5 deviate by 2


def test_a_number_in_the_place_of_a_side_and_an_effect_in_a_sentence(tmp_path):
    measured(tmp_path, rows("A", [1.5, 1.6]))
    (c,) = judged(tmp_path, "[{first: {method: A}, second: 1, effect: 0.9}]").comparisons
    assert c.gap.mean == pytest.approx(0.55) and c.paper == 0.9 and c.verdict == "undecided"
    (c,) = judged(tmp_path, "[{first: 1, second: {method: A}}]").comparisons
    assert c.gap.mean == pytest.approx(-0.55) and math.isnan(c.paper)


def test_nothing_measured_keeps_the_papers_effect(tmp_path):
    expected(tmp_path, [{"method": "A", "top1": 82.0}, {"method": "B", "top1": 80.0}])
    one = judged(tmp_path)
    (c,) = one.comparisons
    assert (one.verdict, c.verdict, c.gap, c.lines, c.power, c.paper) == ("not measured", "not measured", None, None, None, 2.0)
    measured(tmp_path, rows("A", [60]))  # one side alone
    assert judged(tmp_path).verdict == "not measured"


def test_a_claim_of_several_pairs(tmp_path):
    measured(tmp_path, [*rows("A", [60, 61, 62]), *rows("B", [50, 51, 52.1]), *rows("C", [70, 71, 72.1]), *rows("D", [60, 61.5, 62])])
    pairs = [f"{{first: {{method: A}}, second: {{method: {name}}}}}" for name in "BDCX"]
    assert judged(tmp_path, f"[{pairs[0]}, {pairs[1]}]").verdict == "holds in part"
    one = judged(tmp_path, f"[{', '.join(pairs)}]")
    assert one.verdict == "mixed" and one.counted == "1 holds, 1 does not hold, 1 undecided, 1 not measured"
    assert judged(tmp_path, f"[{pairs[1]}, {pairs[2]}]").verdict == "does not hold"


def test_one_seed_counts_only_without_several(tmp_path):
    measured(tmp_path, [*rows("A", [60, 61, 62]), *rows("B", [50, 51, 52.1]), *rows("A", [60], data="x"), *rows("B", [70], data="x")])
    one = judged(tmp_path)
    assert one.verdict == "holds" and one.counted == "1 holds, 1 one seed: sign disagrees"
    measured(tmp_path, [*rows("A", [60]), *rows("B", [61]), *rows("A", [60], data="x"), *rows("B", [50], data="x")])
    assert judged(tmp_path).verdict == "one seed: signs differ"


def test_detectors_that_have_not_learnt_decide_nothing(tmp_path):
    measured(tmp_path, [{**r, "ap_box": r["top1"] / 100} for r in [*rows("A", [60, 61, 62]), *rows("B", [50, 51, 52.1])]])
    assert judged(tmp_path, measures="[{in: mine, of: ap_box}]").verdict == "undecided"
    assert judged(tmp_path).verdict == "holds"


def test_numbers_that_two_experiments_share_count_once(tmp_path):
    measured(tmp_path, [*rows("A", [60]), *rows("B", [50])])  # seed 0 alone
    measured(tmp_path, [*rows("A", [60, 61, 62]), *rows("B", [50, 51, 52.1])], experiment="again")
    measured(tmp_path, [*rows("A", [60, 61, 62]), *rows("B", [50, 51, 52.1])], experiment="thrice")
    measured(tmp_path, [*rows("A", [60]), *rows("B", [50.2])], experiment="other")
    places = ", ".join(f"{{in: {name}, of: top1}}" for name in ("mine", "again", "thrice", "other"))
    one = judged(tmp_path, measures=f"[{places}]")
    assert [(c.lines.path.parts[-3], c.gap.n) for c in one.comparisons] == [("again", 3), ("other", 1)]
