"""The list names everything there is, with its facts."""

from tokenprune.cli import list as listing
from tokenprune.registry import names
from tokenprune.runs.presets import files


def test_everything_is_listed_with_its_facts(capsys):
    listing.main()
    text = capsys.readouterr().out
    for kind in ("selector", "treatment", "schedule", "loss", "task", "report"):
        assert all(f"\n  {name} " in text for name in names(kind))
    assert all(f"\n  {path.stem}" in text for group in ("method", "experiment") for path in files(group))
    assert "python -m tokenprune.run +experiment=table2_preserve" in text and "SViT, WACV 2024" in text


def test_columns_line_up():
    head, *lines = listing.aligned("title", ["a", "b"], [["long word", "x"], ["y", "z"]]).splitlines()
    assert head == "title" and [line.index(c) for line, c in zip(lines, "bxz", strict=True)] == [13, 13, 13]
