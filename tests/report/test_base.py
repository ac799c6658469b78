"""The seam of reports: which are made, what they get, and that one that fails costs nothing but itself."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.fakes import TINY, cli, fake, row  # noqa: F401
from tokenprune import registry
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.reports import Sweep, build_reports, make_reports
from tokenprune.runs.validation import validate

DEFAULT = {"table": {}, "plot": {}}
seen: list[Sweep] = []


@dataclass(frozen=True)
class Count:
    """Writes how many rows there are, or fails."""

    words: str = "rows"
    fails: str = ""

    def __call__(self, sweep: Sweep) -> list[str]:
        seen.append(sweep)
        if self.fails == "known":
            raise TokenPruneError("there is\nno such thing")
        if self.fails:
            raise KeyError(self.fails)
        (sweep.folder / "count.txt").write_text(f"{len(sweep.rows)} {self.words}")
        return ["count.txt"]


@pytest.fixture(autouse=True)
def count(monkeypatch) -> None:
    registry.names("report")
    monkeypatch.setattr(Count, "name", "count", raising=False)
    monkeypatch.setitem(registry._plugins["report"], "count", Count)
    seen.clear()


def sweep(folder: Path, *rows: dict) -> Sweep:
    return Sweep("made_up", rows, folder / "tables" / "made_up", folder)


def test_a_report_gets_rows_options_and_a_folder(tmp_path, capsys):
    assert make_reports({"count": {"words": "sheep"}}, sweep(tmp_path, row(), row(status="failed"))) == []
    assert (tmp_path / "tables/made_up/count.txt").read_text() == "2 sheep" and len(seen[0].good) == 1
    assert "wrote count.txt in " in capsys.readouterr().out


def test_null_leaves_a_report_out(tmp_path):
    assert list(build_reports({**DEFAULT, "table": None})) == ["plot"]


@pytest.mark.parametrize("fails, words", [("known", "there is no such thing"), ("a bug", "KeyError: 'a bug'")])
def test_a_failing_report_is_one_line_and_the_others_are_made(tmp_path, capsys, fails, words):
    assert make_reports({"count": {"fails": fails}, **DEFAULT}, sweep(tmp_path, row())) == ["count"]
    folder = tmp_path / "tables" / "made_up"
    assert {p.name for p in folder.iterdir()} == {"count.error.txt", "table.csv", "table.md", "table.tex", "plot.png"}
    assert "Traceback" in (folder / "count.error.txt").read_text()
    err = capsys.readouterr().err
    assert err.startswith("error: report 'count': ") and words in err and err.count("\n") == 1
    assert make_reports({"count": {}}, sweep(tmp_path, row())) == [] and not (folder / "count.error.txt").exists()


def test_every_wrong_name_and_option_is_reported_at_once():
    with pytest.raises(InvalidConfig) as caught:
        build_reports({"tabel": {}, "count": {"word": 1}, "plot": True})
    text = str(caught.value)
    assert "unknown report 'tabel'. Did you mean 'table'?" in text and "has no option word. Did you mean 'words'?" in text
    assert "reports.plot is True; allowed: its options, e.g. {}, or null" in text


def test_validation_names_a_wrong_report():
    with pytest.raises(InvalidConfig, match="Did you mean 'plot'"):
        validate(resolve(compose(["scale=smoke", "+reports.plto={}"])))


def test_every_run_has_a_table_and_a_plot():
    assert resolve(compose([]))["reports"] == DEFAULT


def test_a_wrong_report_stops_a_sweep_before_its_first_row(cli, fake):  # noqa: F811
    code, out, err = cli("-m", *TINY, "seed=0,1", "+reports.tabel={}")
    assert code == 2 and fake.built == [] and err.count("\n") == 1
    assert err.startswith("error: unknown report 'tabel'. Did you mean 'table'?")


@pytest.mark.system
def test_a_sweep_ends_with_its_reports_and_status_3_if_one_fails(cli, fake):  # noqa: F811
    assert cli("-m", *TINY, "seed=0,1", "+reports.count={}", "reports.plot=null")[0] == 0
    folder = cli.tables()
    assert (folder / "count.txt").read_text() == "2 rows" and not (folder / "plot.png").exists()
    assert all((seen[0].results_dir / "rows" / r["key"] / "model.safetensors").is_file() for r in seen[0].rows)
    code, out, err = cli("-m", *TINY, "seed=0,1", "+reports.count={fails: a bug}")
    assert code == 3 and err.count("error: ") == 1 and (folder / "plot.png").exists() and len(cli.rows()) == 2
    assert fake.built == ["none", "none"]  # what was computed is kept


def test_reports_and_rows_do_not_change_a_row(cli, fake):  # noqa: F811
    cli(*TINY)
    cli("-m", *TINY, "+reports.count={}")
    assert len(cli.rows()) == 1


@pytest.mark.parametrize("many", [[], ["-m"]])
def test_an_experiment_without_rows_only_reports(cli, fake, many):  # noqa: F811
    code, out, err = cli(*many, *TINY, "with_rows=false", "+reports.count={words: sheep}")
    assert (code, err, fake.built, cli.rows()) == (0, "", [], [])
    (folder,) = (cli.folder / "results").iterdir()
    assert [p.name for p in folder.glob("*/count.txt")] == ["count.txt"] and seen[0].rows == []
    assert cli(*many, *TINY, "with_rows=false", "+reports.count={fails: a bug}")[0] == 3
    code, out, err = cli(*many, *TINY, "with_rows=false", "+reports.cuont={}")
    assert code == 2 and "Did you mean 'count'?" in err


def test_an_experiment_without_rows_validates(cli, fake):  # noqa: F811
    code, out, _ = cli(*TINY, "with_rows=false", "validate_only=true")
    assert code == 0 and "no rows, reports: table, plot" in out and list(cli.folder.iterdir()) == []
