"""Which measured rows share a board, how they are ranked at equal cost, and why others are left out."""

import pandas as pd
import pytest

from tokenprune.report.tables.standings import Left, standings

FACTS = {
    "scale": "demo", "task": "classification", "data": "shapes", "cls": "learned", "execution": "auto", "device": "cpu", "threads": 1.0,
    "commit": "0123456789", "dirty": "False", "status": "ok", "size": "tiny", "notes": "starts from here", "speedup_encoder": 1.5,
}  # fmt: skip


def row(label, top1, gmac, treatment="remove", seed=0, key=None, **facts):
    """Return a row; its key follows from its name, cost and seed unless it is given."""
    made = {
        "label": label,
        "method": label.lower(),
        "treatment": treatment,
        "seed": seed,
        "keep_rate": 0.7,
        "top1": float(top1),
        "top1_se": 1.0,
    }
    made |= {"gmac_total": gmac, "key": key or f"{label}{treatment}{gmac}{seed}", "configuration": f"{label}{treatment}{gmac}"}
    return {**FACTS, **made, **facts}


def dense(top1=80, seed=0, **facts):
    return row("Dense", top1, 1.0, "none", seed, **facts)


def stand(**tables):
    return standings([(name, pd.DataFrame(rows)) for name, rows in tables.items()])


def test_lines_stand_by_budget_and_score_beside_the_dense_model():
    ((board,), left) = stand(one=[dense(), row("Bad", 60, 0.66), row("Good", 70, 0.65), row("Near", 69, 0.64), row("Cheap", 50, 0.31)])
    lines = board.lines
    assert list(lines["label"]) == ["Good", "Near", "Bad", "Cheap"] and list(lines["budget"]) == [65, 65, 65, 30] and left == []
    assert list(lines["share"]) == pytest.approx([0.65, 0.64, 0.66, 0.31]) and list(lines["change"]) == [-10, -11, -20, -30]
    assert list(lines["rivals"]) == [True, True, False, True]  # 1 point is within 1.96 * sqrt(2) standard errors, 10 points are not
    assert list(lines["front"]) == [True, True, False, True]
    assert board.dense["label"] == "Dense" and board.start == "starts from here" and board.rows == 5 and board.experiments == ("one",)


def test_seeds_are_one_line_with_differences_paired_by_seed():
    rows = [row("Good", top1, 0.5, seed=seed) for seed, top1 in ((0, 70), (1, 74))]
    ((board,), _) = stand(one=[dense(80, 0), dense(90, 1), dense(100, 2), *rows])
    (line,) = board.lines.to_dict("records")
    assert line["top1"] == 72 and line["top1_se"] == pytest.approx(2.828, abs=1e-3) and line["n"] == 2 and board.dense["top1"] == 90
    assert line["change"] == -13  # of seeds 0 and 1 alone


def test_tables_that_share_a_row_share_a_board_also_by_way_of_a_third():
    shared, other = row("Good", 70, 0.5), row("Other", 60, 0.5)
    (boards, left) = stand(a=[dense(), shared], b=[other, row("Last", 50, 0.4)], c=[shared, other])
    ((board,),) = (boards,)
    assert board.experiments == ("a", "b", "c") and sorted(board.lines["label"]) == ["Good", "Last", "Other"] and left == []
    (good,) = board.lines[board.lines["label"] == "Good"]["experiments"]
    assert good == ("a", "c")


@pytest.mark.parametrize("other", [{"device": "gpu"}, {"threads": 2.0}, {"data": "mine"}, {"scale": "paper"}, {"size": "small"}])
def test_rows_of_another_machine_or_other_data_stand_on_a_board_of_their_own(other):
    tables = {"a": [dense(), row("Good", 70, 0.5)], "b": [dense(**other), row("Good", 70, 0.5, **other)]}
    assert len(stand(**tables)[0]) == 2


def test_the_same_key_with_another_score_is_another_run():
    boards, _ = stand(a=[dense(80), row("Good", 70, 0.5)], b=[dense(81), row("Fine", 70, 0.5)])
    assert len(boards) == 2


def test_images_follow_from_the_binomial_error_of_top1():
    ((board,), _) = stand(a=[dense(80, top1_se=100 * (0.8 * 0.2 / 300) ** 0.5), row("Good", 70, 0.5)])
    assert board.images == 300


def test_what_stands_on_no_board_is_named():
    alone = [row("Good", 70, 0.5, data="alone")]
    sizes = [dense(data="sizes"), dense(85, key="larger", data="sizes"), row("Good", 70, 0.5, data="sizes")]
    failed = [dense(), row("Good", 70, 0.5), row("Broken", float("nan"), 0.5, status="failed"), row("Fast", float("nan"), 0.4)]
    boards, left = stand(alone=alone, sizes=sizes, failed=failed)
    assert len(boards) == 1
    assert set(left) == {
        Left("alone", 1, "no dense model beside them, and no row in common with a table that has one"),
        Left("sizes", 3, "several dense models in one table, such as one for each size of image"),
        Left("failed", 1, "no result: failed"),
        Left("failed", 1, "cost or speed alone, without accuracy"),
    }


def test_two_models_of_one_experiment_stand_on_two_boards_if_rows_tell_their_start():
    rows = [
        dense(),
        row("Good", 70, 0.5),
        dense(60, key="other", notes="starts from there"),
        row("Fine", 50, 0.5, notes="starts from there"),
    ]
    boards, left = stand(both=rows)
    assert left == [] and [(b.start, list(b.lines["label"])) for b in boards] == [
        ("starts from here", ["Good"]), ("starts from there", ["Fine"]),
    ]  # fmt: skip


def test_a_dense_model_alone_and_two_that_meet_are_no_board():
    shared = row("Good", 70, 0.5)
    boards, left = stand(a=[dense(80), shared], b=[dense(81, key="another"), shared], c=[dense(data="lonely")])
    assert boards == [] and {one.why for one in left} == {"tables that share rows have different dense models", "the dense model alone"}
