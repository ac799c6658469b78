"""`tokenprune explain`: every file and rule that made a run, in order of precedence."""

import shlex
import sys

import pytest

from tests.helpers.fakes import cli  # noqa: F401
from tokenprune.cli import explain, validate
from tokenprune.utils.paths import config_dir

pytestmark = pytest.mark.system


@pytest.fixture
def told(monkeypatch, capsys):
    """Run the command; return (exit status, lines printed, errors)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain", *arguments])
        code = 0
        try:
            explain.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_files_stand_in_their_order_of_precedence(told):
    code, lines, _ = told("method=svit", "scale=paper", "task=classification", "seed=3")
    files = dict.fromkeys(line.split()[-1] for line in lines if line.endswith(".yaml"))  # some serve twice: the first place counts
    order = ["conf/task/classification.yaml", "conf/method/svit.yaml", "conf/scale/paper.yaml", "conf/rules/task_at_scale.yaml"]
    assert code == 0 and [file for file in files if file in order] == order
    assert lines[-1].split() == ["seed=3", "command", "line", "or", "sweep"]
    assert all((config_dir().parent / file).is_file() for file in files)


def test_a_selector_alone_names_the_preset_that_it_takes(told):
    _, lines, _ = told("selector=evit", "scale=smoke")
    assert any(line.split() == ["method=evit", "conf/method/evit.yaml"] for line in lines)


def test_a_sweep_lists_its_rows_and_explains_the_first(told):
    code, lines, _ = told("+experiment=table4_gating")
    assert code == 0 and lines[0].startswith("6 rows") and lines[7].startswith("tokenprune run +experiment=table4_gating ")


@pytest.mark.parametrize("flag", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_a_table_of_ones_own_is_explained_and_validated(told, tmp_path, monkeypatch, capsys, flag):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "mine.yaml").write_text("half: {method: evit, schedule.keep_rate: 0.5}\n")
    flags = [word.format(tmp_path) for word in flag]
    code, lines, err = told(*flags, "+experiment=mine", "scale=smoke")
    assert code == 0, err
    sources = {line.split()[0]: line.split()[-1] for line in lines[2:]}
    assert all(sources[choice].endswith("/rows/mine.yaml") for choice in ("experiment=mine", "rows/mine=00_half"))
    monkeypatch.setattr(sys, "argv", ["validate", "mine", *flags])
    validate.main()
    assert capsys.readouterr().out == "mine: 3 of 3 rows are valid (smoke, demo, paper)\n"


def test_the_printed_command_can_be_pasted(told, tmp_path):
    tables = tmp_path / "my tables"
    (tables / "rows").mkdir(parents=True)
    (tables / "rows" / "mine.yaml").write_text("half: {method: evit}\nthird: {method: evit, schedule.keep_rate: 0.3}\n")
    _, lines, _ = told("--config-dir", str(tables), "+experiment=mine", "scale=smoke")
    (command,) = [line for line in lines if line.startswith("tokenprune run")]
    words = shlex.split(command)
    assert words[2:4] == ["--config-dir", str(tables)]
    code, again, err = told(*words[2:])
    assert code == 0 and again[0] == command, err


def test_every_line_names_its_choice(told):
    _, lines, _ = told("method=svit", "scale=smoke")
    (own,) = [line.split() for line in lines if line.endswith("conf/config.yaml")]
    assert own == ["(every", "run)", "conf/config.yaml"]
    assert all(not line.startswith("   ") for line in lines[2:])


def test_what_cannot_be_composed_is_one_error(told):
    code, _, err = told("method=evitt")
    assert code == 2 and err.startswith("error: ") and "evitt" in err
