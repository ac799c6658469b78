"""The page that ranks every measured row."""

import re

import pandas as pd

from tests.report.test_standings import dense, row
from tokenprune.cli.docs import __main__ as docs
from tokenprune.cli.docs import leaderboard


def written(root, name, rows):
    folder = root / "experiments" / name / "measured"
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)


def test_a_board_its_overview_and_what_is_left_out(tmp_path):
    written(tmp_path, "first", [dense(), row("A|B", 70, 0.65), row("Bad", 60, 0.65, "last_layer_fusion", dirty="True")])
    written(tmp_path, "second", [row("Alone", 70, 0.5, data="mine")])
    text = leaderboard.page(tmp_path)
    lines = text.splitlines()
    title = "Board 1: classification on shapes"
    assert f"## {title}" in lines and "| dense | Dense | none | 0.7 | 80.0 ± 1.0 | — | 100.0 % | 1.50 | 1 |" in lines
    assert "| 65 % | **A\\|B** ★ | remove | 0.7 | 70.0 ± 1.0 | -10.0 | 65.0 % | 1.50 | 1 |" in lines
    assert "| 65 % | Bad | last_layer_fusion | 0.7 | 60.0 ± 1.0 | -20.0 | 65.0 % | 1.50 | 1 |" in lines
    assert (
        f"| [{title}](#board-1-classification-on-shapes) | cpu, 1 thread | 1600 | 80.0 ± 1.0 | 2 | A\\|B remove 0.7 (70.0 at 65 %) |"
        in lines
    )
    assert "3 rows of [first](../experiments/first/), of commit 01234567. 1600 validation images. Every row starts from here." in text
    assert "1 row was measured with code that was not committed." in text
    assert any(re.match(r"\| \[second\]\(\.\./experiments/second/\) \| 1 \| no dense model beside them", line) for line in lines)


def test_a_board_of_several_experiments_says_where_each_line_is_from(tmp_path):
    shared = row("Good", 70, 0.65)
    written(tmp_path, "first", [dense(), shared])
    written(tmp_path, "second", [shared])
    end = "| 1 | [first](../experiments/first/), [second](../experiments/second/) |"
    assert sum(line.endswith(end) for line in leaderboard.page(tmp_path).splitlines()) == 1


def test_without_rows_the_page_says_so(tmp_path):
    assert "No row is committed yet that stands beside a dense model." in leaderboard.page(tmp_path)


def test_new_rows_make_the_page_stale(tmp_path):
    (tmp_path / "docs").mkdir()
    written(tmp_path, "first", [dense(), row("Good", 70, 0.65)])
    (tmp_path / "docs/leaderboard.md").write_text(leaderboard.page(tmp_path))
    assert "docs/leaderboard.md" not in docs.stale(tmp_path)
    written(tmp_path, "second", [dense(data="mine"), row("Good", 70, 0.65, data="mine")])
    assert "docs/leaderboard.md" in docs.stale(tmp_path)
