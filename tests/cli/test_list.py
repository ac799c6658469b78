"""The list names everything there is, with its facts."""

import pytest

from tokenprune.cli import list as listing
from tokenprune.registry import names
from tokenprune.runs.presets import files


def test_everything_is_listed_with_its_facts(capsys):
    assert listing.main([]) == 0
    text = capsys.readouterr().out
    for kind in ("selector", "treatment", "schedule", "loss", "task", "report"):
        assert all(f"\n  {name} " in text for name in names(kind))
    assert all(f"\n  {path.stem}" in text for group in ("method", "experiment") for path in files(group))
    assert "python -m tokenprune.run +experiment=table2_preserve" in text and "SViT, WACV 2024" in text


@pytest.mark.parametrize("word", ["schedules", "schedule"])
def test_a_kind_is_listed_alone(word, capsys):
    listing.main([word])
    text = capsys.readouterr().out
    assert text == listing.plugins("schedule") + "\n" and text.startswith("schedules\n")


def test_kinds_are_listed_in_the_order_that_they_are_asked_for(capsys):
    listing.main(["losses", "data"])
    assert capsys.readouterr().out == "\n\n".join([listing.plugins("loss"), listing.plugins("data")]) + "\n"


@pytest.mark.parametrize("kind", listing.sections())
def test_every_kind_that_is_allowed_is_listed(kind, capsys):
    listing.main([kind])
    assert capsys.readouterr().out.startswith(kind)


def test_a_word_that_names_no_kind_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        listing.main(["selektors"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert "there is no kind 'selektors'. Did you mean 'selectors'? Allowed: selectors, treatments" in err and "experiments" in err


def test_columns_line_up():
    head, *lines = listing.aligned("title", ["a", "b"], [["long word", "x"], ["y", "z"]]).splitlines()
    assert head == "title" and [line.index(c) for line, c in zip(lines, "bxz", strict=True)] == [13, 13, 13]
