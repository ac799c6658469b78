"""Rows of one name say in what they differ."""

from tests.helpers.fakes import row
from tokenprune.report.tables.settings import settings
from tokenprune.report.tables.table import build, rows_frame

SHARES = (0.25, 0.5)


def shares(seed=0):
    own = {"seed": seed, "training": {"seed": seed}}
    return [row(label="Cropr", seed=seed, config={"schedule": {"name": "total", "total": share}, **own}) for share in SHARES]


def said(rows):
    return settings(rows, rows_frame(rows).to_dict("records"))


def test_rows_of_one_name_show_the_setting_in_which_they_differ():
    table = build(shares())
    assert list(table.shown["setting"]) == ["total 0.25", "total 0.5"]
    assert list(table.data["setting"]) == list(table.shown["setting"])


def test_a_table_whose_rows_have_names_of_their_own_has_no_such_column():
    first, second = shares()
    table = build([first, {**second, "label": "Cropr, half"}])
    assert "setting" not in table.shown and "setting" not in table.data


def test_seeds_are_no_setting_and_lines_over_seeds_keep_theirs():
    rows = [one for seed in (0, 1) for one in shares(seed)]
    assert said(rows[::2]) == ["", ""]  # one share, two seeds
    table = build(rows)
    assert list(table.lines["setting"]) == ["total 0.25", "total 0.5"] and list(table.lines["seeds"]) == ["2", "2"]
    assert list(table.seeds["setting"]) == ["total 0.25", "total 0.5"]


def test_files_are_shown_by_their_names_and_at_most_two_settings():
    rows = [row(label="Cropr", config={"init": f"/a/b/{n}.pt", "x": n, "y": n}) for n in ("one", "two")]
    assert said(rows) == ["init one.pt, x one", "init two.pt, x two"]


def test_what_does_not_change_numbers_is_no_setting():
    first, second = shares()
    named = [{**one, "config": {**one["config"], "experiment": name}} for one, name in ((first, "a"), (second, "b"))]
    assert said(named) == ["total 0.25", "total 0.5"]


def test_digests_that_the_key_holds_in_the_place_of_a_folder_are_no_setting(monkeypatch):
    monkeypatch.setattr("tokenprune.report.tables.settings.relevant_of", lambda config: {**config, "files": {"a.png": config["x"]}})
    rows = [row(label="Cropr", config={"x": number}) for number in (1, 2)]
    assert said(rows) == ["x 1", "x 2"]
