"""Which experiments `tokenprune smoke` runs, and its exit status."""

import sys

import pytest

from tokenprune.cli import smoke
from tokenprune.runs.presets import files


@pytest.fixture
def asked(monkeypatch):
    """Return a function that types a command line and returns what would be run, as {experiment: settings}."""

    def typed(*words, fails=()):
        found = {}
        monkeypatch.setattr(sys, "argv", ["smoke", *words])
        monkeypatch.setattr(smoke, "ran", lambda name, settings: found.update({name: settings}) or name not in fails)
        smoke.main()
        return found

    return typed


def test_all_experiments_but_those_of_published_files(asked, capsys):
    everything = {path.stem for path in files("experiment")}
    assert everything - set(asked()) == {"released_svit", "released_classification"}
    assert "released_svit: left out, its rows are published files; zoo.folder=DIR data.root=DIR runs it" in capsys.readouterr().out


def test_published_files_are_run_where_they_are_asked_for(asked):
    assert set(asked("zoo.folder=there", "data.root=here")) == {path.stem for path in files("experiment")}
    assert asked("released_svit", "seed=1") == {"released_svit": ["seed=1"]}


def test_a_failed_experiment_makes_the_status_3(asked, capsys):
    with pytest.raises(SystemExit, match="3"):
        asked("table2_preserve", "cube", fails=("cube",))
    assert "1 of 2 experiments failed: cube" in capsys.readouterr().err
