"""Rows of tables as data."""

import pytest

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.errors import InvalidConfig
from tokenprune.runs import rows as table_rows
from tokenprune.runs.config import compose
from tokenprune.runs.presets import files
from tokenprune.runs.rows import rows_of
from tokenprune.utils.paths import config_dir


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    monkeypatch.setattr(table_rows, "folders", lambda: [tmp_path])
    return tmp_path / "rows"


def test_rows_are_numbered_in_the_order_of_the_file(folder):
    (folder / "mine.yaml").write_text("b: {method: evit}\na: {method: ats, schedule.keep_rate: 0.5}\n")
    assert rows_of("mine") == {"00_b": {"method": "evit"}, "01_a": {"method": "ats", "schedule.keep_rate": 0.5}}


def test_more_than_a_hundred_rows_stay_in_order(folder):
    (folder / "mine.yaml").write_text("".join(f"row{n}: {{method: evit, seed: {n}}}\n" for n in range(101)))
    assert list(rows_of("mine")) == sorted(rows_of("mine")) and next(iter(rows_of("mine"))) == "000_row0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows; allowed: a mapping"),
        ("- evit\n", "holds no rows; allowed: a mapping"),
        ("a: evit\nb: {method: evit}\n", "no choices in row a; allowed: a mapping"),
        ("a: {method: evit\n", "cannot be read as YAML"),
        ("a: {method: evit}\na: {method: ats}\n", "cannot be read as YAML"),
    ],
)
def test_a_file_of_another_form_is_refused(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(InvalidConfig, match=f"mine.yaml.*{message}"):
        rows_of("mine")


def test_an_unknown_table_is_refused_with_those_that_exist():
    with pytest.raises(InvalidConfig, match="no table of rows 'tabel2'.* Allowed: .*table2_preserve"):
        rows_of("tabel2")


@pytest.mark.system
def test_a_file_of_rows_in_a_folder_of_ones_own_is_an_experiment(cli, fake, tmp_path):  # noqa: F811
    (tmp_path / "mine" / "rows").mkdir(parents=True)
    (tmp_path / "mine" / "rows" / "my_table.yaml").write_text("half: {method: evit, schedule.keep_rate: 0.5}\nall: {method: dense}\n")
    code, out, err = cli("--config-dir", str(tmp_path / "mine"), *TINY, "+experiment=my_table", "validate_only=true")
    assert code == 0 and "my_table: 2 of 2 rows are valid" in out, err


def test_every_table_is_named_as_its_experiment():
    experiments = {path.stem for path in files("experiment")}
    assert {path.stem for path in (config_dir() / "rows").glob("*.yaml")} <= experiments


def test_choices_and_values_reach_the_configuration():
    config = compose(["+experiment=cropr_fig4_scaling", "+rows/cropr_fig4_scaling=03_large_cropr"])
    assert (config.method, config.schedule.total) == ("cropr", 0.898)
    assert rows_of("cropr_fig4_scaling")["03_large_cropr"]["schedule.total"] == 0.898
