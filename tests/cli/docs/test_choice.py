"""The page that says which method wins at each budget, from committed comparisons."""

import pandas as pd

from tokenprune.cli.docs import choice

COLUMNS = ["budget", "first", "second", "first_top1", "second_top1", "images", "difference", "low", "high", "better"]
ROWS = [
    ("65%", "ToMe, merge", "EViT, fuse", 70, 69, 500, 1, -1, 3, "undecided"),
    ("65%", "ToMe, merge", "Random, remove", 70, 60, 500, 10, 7, 13, "ToMe, merge"),
    ("65%", "ToMe, merge", "Variance, remove", 70, 50, 500, 20, 17, 23, "ToMe, merge"),
    ("65%", "EViT, fuse", "Random, remove", 69, 60, 500, 9, 6, 12, "EViT, fuse"),
    ("65%", "EViT, fuse", "Variance, remove", 69, 50, 500, 19, 16, 22, "EViT, fuse"),
    ("65%", "Variance, remove", "Random, remove", 50, 60, 500, -10, -13, -7, "Random, remove"),
    *((("65%", name, "Dense", top1, 75, 500, top1 - 75, top1 - 77, top1 - 73, "Dense"))
      for name, top1 in (("ToMe, merge", 70), ("EViT, fuse", 69), ("Random, remove", 60), ("Variance, remove", 50))),
]  # fmt: skip


def test_winners_ties_and_losers(tmp_path):
    folder = tmp_path / "experiments" / "training_free_gmac" / "measured" / "my_model"
    folder.mkdir(parents=True)
    pd.DataFrame(ROWS, columns=COLUMNS).to_csv(folder / "paired.csv", index=False)
    text = choice.page(tmp_path)
    assert "## my model" in text and "500 images." in text
    line = "| 65% | **ToMe, merge** (70.0) | -5.0 (-7.0 to -3.0) | EViT, fuse (69.0) | Variance, remove (50.0) |"
    assert line in text.splitlines()


def test_rankings_of_papers_are_told_with_their_verdict(tmp_path):
    folder = tmp_path / "experiments" / "training_free_gmac" / "measured" / "my_model"
    folder.mkdir(parents=True)
    pd.DataFrame(ROWS, columns=COLUMNS).to_csv(folder / "paired.csv", index=False)
    lines = [
        ("65%", "ToMe", "EViT", 1.0, -1.0, 3.0, "undecided", "ToMe", ""),
        ("50%", "ToMe", "ATC", 4.0, 1.0, 7.0, "holds", "ToMe", "Trained."),
    ]
    columns = ["budget", "first", "second", "difference", "low", "high", "verdict", "source", "note"]
    pd.DataFrame(lines, columns=columns).to_csv(folder / "rankings.csv", index=False)
    text = choice.page(tmp_path)
    assert "| ranking | paper | 65% | 50% | |" in text
    assert "| ToMe above EViT | ToMe | **undecided**, +1.0 (-1.0 to +3.0) | — |  |" in text
    assert "| ToMe above ATC | ToMe | — | **holds**, +4.0 (+1.0 to +7.0) | Trained. |" in text


def test_without_measurements_the_page_says_so(tmp_path):
    assert "No comparison is committed yet." in choice.page(tmp_path)
