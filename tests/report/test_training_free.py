"""The training-free figure: its table, its claim with its error, and rows that are named instead of drawn."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tests.report.test_paired import judged as with_answers
from tokenprune.registry import build
from tokenprune.report.figures.training_free import claim, parted
from tokenprune.runs.reports import Sweep


def judged(method, rate, top1, error=1.0, selector=None, treatment="remove"):
    config = {"schedule": {"name": "stages", "keep_rate": rate}, "selector": {"name": selector or method}}
    base = row(method=method, label=method, treatment=treatment, config=config, cost={"gmac_total": (rate or 1.0) * 2})
    return {**base, "metrics": {"top1": top1, "top1_se": error}}


ROWS = [
    judged("dense", None, 70.0, selector="none", treatment="none"),
    judged("topk", 0.9, 69.0), judged("topk", 0.5, 60.0), judged("random", 0.9, 68.0), judged("random", 0.5, 40.0),
]  # fmt: skip


def test_files_table_and_claim(tmp_path, capsys):
    wrote = build("report", "training_free")(Sweep("made_up", ROWS, tmp_path, tmp_path))
    assert wrote == ["training_free.png", "training_free.csv", "training_free.md"]
    points = pd.read_csv(tmp_path / "training_free.csv")
    assert points["keep_rate"].fillna(0).tolist() == [0, 0.9, 0.5, 0.9, 0.5] and set(points["error"]) == {"standard error over images"}
    text = (tmp_path / "training_free.md").read_text()
    assert "| topk, remove | 69.0 ± 1.0 (1.8) | 60.0 ± 1.0 (1) |" in text and "| dense, none | 70.0 ± 1.0 (2) | 70.0 ± 1.0 (2) |" in text
    assert (
        "- keep rate 0.9: +1.0 ± 1.4 (as if of other images), undecided\n- keep rate 0.5: +20.0 ± 1.4 (as if of other images), holds"
        in text
    )
    assert "topk is better than random: holds in part, 1 of 2 undecided" in text and text[16:40] in capsys.readouterr().out


def test_a_claim_needs_both_methods_at_a_keep_rate(tmp_path):
    assert claim(ROWS[:3], "topk", "random", tmp_path) == "" and claim([ROWS[1], ROWS[4]], "topk", "random", tmp_path) == ""
    assert "does not hold" in claim([judged("topk", 0.5, 40.0), judged("random", 0.5, 50.0)], "topk", "random", tmp_path)


def test_a_claim_pairs_the_images_where_rows_have_their_predictions(tmp_path):
    """68 and 60 of 200 right: no difference of independent samples, but the 60 are among the 68."""
    score = {"top1": 32.0, "top1_se": 3.3}
    rows = [with_answers(tmp_path, n, f"method={name}", metrics=score) for n, name in ((68, "topk"), (60, "random"))]
    assert "- keep rate 0.7: +4.0 ± 1.4 (paired by image), holds" in claim(rows, "topk", "random", tmp_path)


@pytest.mark.parametrize("selector", ["svit", "dynamicvit", "cropr", "a_vit", "adavit", "ia_red2", "sit", "sinkhorn"])
def test_what_has_to_be_trained_is_left_out_by_name(selector, tmp_path):
    learner = judged(selector, 0.5, 99.0)
    free, named = parted([*ROWS, learner])
    assert free == ROWS and f"{selector} (selector {selector})" in named
    build("report", "training_free")(Sweep("made_up", [*ROWS, learner], tmp_path, tmp_path))
    assert "99.0" not in (tmp_path / "training_free.md").read_text() and named in (tmp_path / "training_free.md").read_text()


@pytest.mark.parametrize("selector", ["evit", "ats", "topk", "random", "variance", "tome", "evo_vit", "kmedoids", "dpc_knn", "none"])
def test_what_needs_no_training_stays(selector):
    rows = [judged(selector, 0.5, 50.0)]
    assert parted(rows) == (rows, "")


def test_a_claim_compares_rows_of_one_treatment(tmp_path):
    other = judged("random", 0.5, 10.0, treatment="last_layer_fusion")
    assert claim([*ROWS, other], "topk", "random", tmp_path) == claim(ROWS, "topk", "random", tmp_path)
