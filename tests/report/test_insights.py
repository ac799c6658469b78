"""Verdicts on SViT's claims from constructed rows: what holds, what does not, what a few seeds cannot say."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fakes import cli, row  # noqa: F401
from tokenprune.report.insights.claims import CLAIMS, METRICS, compare, verdict_of_claims
from tokenprune.report.insights.verdicts import FAILS, HOLDS, MIXED, RULES, UNDECIDABLE, UNDECIDED, interval, judge, t_quantile, together
from tokenprune.report.tables.seeds import Difference
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.reports import Sweep, make_reports
from tokenprune.runs.row import relabelled
from tokenprune.runs.rows import rows_of
from tokenprune.runs.validation import validate

SEEDS = (0, 1, 2)
AP = {"svit": (50.0, 49.0, 51.0), "svit_fixed": (49.0, 48.1, 49.9), "svit_no_reactivation": (50.5, 46.0, 53.0)}
AP |= {"svit_complex": (50.2, 49.1, 51.0)}
AP |= {"dynamicvit_remove": (11.0, 10.0, 12.0), "dynamicvit_preserve": (10.0, 9.1, 10.9), "evit_remove": (10.0, 10.5, 11.0)}
AP |= {"evit_preserve": (43.0, 43.6, 44.1), "ats_remove": (4.0, 5.0, 6.0), "ats_preserve": (40.0, 41.1, 42.1)}


@pytest.fixture(scope="module")
def configs() -> dict[str, dict]:
    """Return the resolved configurations of the experiment's rows, without the run's seed."""
    names = {name.split("_", 1)[1]: name for name in rows_of("insights")}
    return {name: resolve(compose(["+experiment=insights", f"+rows/insights={stem}"])) for name, stem in names.items()}


def made(configs: dict[str, dict], values: dict[str, tuple], **changes) -> list[dict]:
    """Return rows with box AP by seed; mask AP is a tenth of it."""
    rows = []
    for name, found in values.items():
        for seed, ap in zip(SEEDS, found, strict=False):
            config = {**configs[name], "seed": seed, "training": {**configs[name]["training"], "seed": seed}}
            rows.append(relabelled(row(config=config, seed=seed, metrics={"ap_box": ap, "ap_mask": ap / 10}, **changes), config))
    return rows


def test_the_rows_of_the_experiment_are_valid_and_bear_on_every_claim(configs):
    assert set(configs) == set(AP)
    for name in ("svit_fixed", "svit_no_reactivation", "svit_complex"):  # the others are validated as methods and in Table 2
        validate(configs[name], files=False)
    found = compare(made(configs, AP))
    assert [c.claim.name for c in found[:: len(METRICS)]] == ["preserve"] * 3 + ["reactivate", "dynamic", "mlp"]
    pairs = {(c.first, c.second) for c in found if c.claim.name != "preserve"}
    assert pairs == {("SViT", "SViT dynamic, no reactivation"), ("SViT", "SViT fixed, reactivation"), ("SViT", "SViT complex gate")}


def test_verdicts_and_the_papers_differences(configs):
    box = {(c.claim.name, c.first): c for c in compare(made(configs, AP)) if c.metric == "ap_box"}
    verdicts = {key: c.verdict for key, c in box.items()}
    assert verdicts == {
        ("preserve", "DynamicViT preserve"): FAILS,
        ("preserve", "EViT preserve"): HOLDS,
        ("preserve", "ATS preserve"): HOLDS,
        ("reactivate", "SViT"): UNDECIDABLE,
        ("dynamic", "SViT"): HOLDS,
        ("mlp", "SViT"): HOLDS,
    }
    paper = [round(c.paper, 1) for c in box.values()]
    assert paper == [2.9, 0.2, 0.2, 0.4, 0.4, -0.1]
    gap = box["dynamic", "SViT"].gap
    assert (gap.mean, gap.n) == (pytest.approx(1.0), 3) and gap.error == pytest.approx(0.1 / math.sqrt(3))


def test_pairs_are_found_by_facts_and_not_by_labels(configs):
    rows = [{**r, "label": f"row {i}"} for i, r in enumerate(made(configs, AP))]
    assert [c.verdict for c in compare(rows)] == [c.verdict for c in compare(made(configs, AP))]
    other = {name: {**config, "data": {**config["data"], "seed": 7}} for name, config in configs.items()}
    assert compare(made(configs, {"svit": AP["svit"]}) + made(other, {"svit_fixed": AP["svit_fixed"]})) == []


def test_pairs_of_the_same_names_are_told_apart(configs):
    slow = {name: {**config, "schedule": {**config["schedule"], "keep_rate": 0.5}} for name, config in configs.items()}
    two = {name: AP[name] for name in ("evit_remove", "evit_preserve")}
    found = compare(made(configs, two) + made(slow, two))[:: len(METRICS)]
    assert [c.setting for c in found] == ["keep rate 0.7", "keep rate 0.5"] and [c.keep_rate for c in found] == [0.7, 0.5]
    assert [round(c.paper, 1) for c in found[:1]] == [0.2] and math.isnan(found[1].paper)


def test_seeds_that_fail_leave_their_pair_out_and_are_named(configs):
    rows = made(configs, {name: AP[name] for name in ("evit_remove", "evit_preserve")})
    rows[1] |= {"status": "diverged", "reason": "loss is nan", "metrics": {}, "cost": {}}
    box, _ = compare(rows)
    assert box.gap.n == 2 and box.missing == ["EViT remove, seed 1: diverged: loss is nan"]
    for r in rows[:3]:
        r |= {"status": "diverged", "reason": "loss is nan", "metrics": {}, "cost": {}}
    box, _ = compare(rows)
    assert box.gap is None and box.verdict == UNDECIDED and math.isnan(box.shares[1])


def test_rows_that_have_learnt_nothing_decide_nothing(configs):
    """Equal because both are 0 is not `as good`."""
    found = compare(made(configs, {"svit": (0.0, 0.02, 0.0), "svit_complex": (0.0, 0.01, 0.0)}))
    assert [c.verdict for c in found] == [UNDECIDED, UNDECIDED] and "neither side reaches an AP of 1" in RULES["better"]


@pytest.mark.parametrize(
    "gap, rule, spread, verdict",
    [
        (Difference(1.0, 0.1, 3), "better", 1.0, HOLDS),
        (Difference(1.0, 0.3, 3), "better", 1.0, UNDECIDED),  # 3.3 standard errors are not enough for 3 seeds
        (Difference(1.0, 0.3, 6), "better", 1.0, HOLDS),  # and are for 6
        (Difference(-1.0, 0.1, 3), "better", 1.0, FAILS),
        (Difference(9.0, math.nan, 1), "better", math.nan, UNDECIDED),
        (Difference(-0.5, 0.01, 3), "as good", 0.6, HOLDS),
        (Difference(-0.7, 0.01, 3), "as good", 0.6, FAILS),
        (Difference(-0.7, 0.3, 3), "as good", 0.6, UNDECIDED),
        (Difference(5.0, 0.01, 3), "as good", 0.1, HOLDS),  # better is as good
        (Difference(0.0, math.nan, 1), "as good", math.nan, UNDECIDED),
    ],
)
def test_rules(gap, rule, spread, verdict):
    assert judge(gap, rule, spread) == verdict and rule in RULES


@given(st.floats(-50, 50), st.floats(0.001, 10), st.integers(2, 30), st.floats(0, 10))
def test_a_claim_and_its_opposite_never_both_hold(mean, error, n, spread):
    there, back = (judge(Difference(sign * mean, error, n), "better", spread) for sign in (1, -1))
    assert {there, back} in ({UNDECIDED}, {HOLDS, FAILS})
    low, high = interval(Difference(mean, error, n))
    assert low < mean < high and high - low > 2 * 1.95 * error  # never narrower than the normal distribution's


@pytest.mark.parametrize("freedom, t", [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (30, 2.042), (1000, 1.962)])
def test_quantiles_of_student(freedom, t):
    assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize(
    "verdicts, words",
    [
        ([HOLDS, HOLDS], HOLDS),
        ([FAILS, FAILS], FAILS),
        ([UNDECIDED], UNDECIDED),
        ([UNDECIDABLE, UNDECIDABLE], UNDECIDABLE),
        ([UNDECIDABLE, UNDECIDED], UNDECIDED),
        ([HOLDS, UNDECIDABLE], "holds in part, 1 of 2 undecided"),
        ([HOLDS, FAILS, UNDECIDED], MIXED),
        ([HOLDS, UNDECIDED], "holds in part, 1 of 2 undecided"),
        ([FAILS, UNDECIDED], "does not hold in part, 1 of 2 undecided"),
    ],
)
def test_verdicts_together(verdicts, words):
    assert together(verdicts) == words


def test_the_report_says_what_does_not_hold_and_by_which_rule(configs, tmp_path, capsys):
    rows = made(configs, {name: AP[name] for name in ("dynamicvit_remove", "dynamicvit_preserve")})
    assert make_reports({"insights": {}}, Sweep("insights", rows, tmp_path, tmp_path)) == []
    assert {p.name for p in tmp_path.iterdir()} == {"insights.csv", "insights.md", "insights.png"}
    out = capsys.readouterr().out
    assert "preserving dropped tokens is better than removing them: DOES NOT HOLD" in out and RULES["better"] in out
    assert "a 2-layer MLP gate is as good as a complex one: NO ROWS (rows that differ in their gate)" in out
    data = pd.read_csv(tmp_path / "insights.csv")
    assert list(data["verdict"]) == [FAILS, FAILS] and list(data["paper_difference"].round(1)) == [2.9, 2.2]
    assert list(data["n"]) == [3, 3] and (data["interval_high"] < 0).all()


def test_one_seed_is_undecided_and_still_drawn(configs, tmp_path):
    rows = made(configs, {name: found[:1] for name, found in AP.items()})
    assert set(verdict_of_claims(compare(rows)).values()) == {"UNDECIDED at this scale"}
    assert make_reports({"insights": {}}, Sweep("insights", rows, tmp_path, tmp_path)) == []
    assert "| — |" in (tmp_path / "insights.md").read_text() and (tmp_path / "insights.png").stat().st_size > 0


def test_rows_that_bear_on_no_claim_make_no_files(tmp_path):
    assert make_reports({"insights": {}}, Sweep("sweep", [row(), row(config={"treatment": "???"})], tmp_path, tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_the_picture_has_a_panel_a_claim_and_the_papers_mark(configs, tmp_path):
    from tokenprune.report.insights.plot import draw

    found = compare(made(configs, AP))
    figure = draw(found, tmp_path / "insights.png", "made up")
    assert [axis.get_title(loc="left").split(":")[0] for axis in figure.axes] == [claim.name for claim in CLAIMS]
    marks = [line for line in figure.axes[2].lines if line.get_marker() == "D"]
    assert [round(float(line.get_xdata()[0]), 1) for line in marks] == [0.4, 0.5]
    assert all(axis.get_xlim()[0] < 0 < axis.get_xlim()[1] for axis in figure.axes)
    assert sum("holds (3 seeds)" in text.get_text() for axis in figure.axes for text in axis.texts) >= 4


def test_the_experiment_validates(cli):  # noqa: F811
    code, out, err = cli("+experiment=insights", "+rows/insights=06_svit,07_svit_fixed", "seed=0", "scale=smoke", "validate_only=true")
    assert (code, err) == (0, "") and "insights: 2 of 2 rows are valid" in out
